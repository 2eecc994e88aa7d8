"""Files of weights that were made to cost memory, or that are damaged, are refused before they do."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_store.format import tensors
from model_store.sources import backbones, checkpoint
from model_store.sources.families import registry
from model_store.sources.families.names import Names
from petl_vit.errors import CorollaError, Corrupt, InvalidInput

MANY = 10**6


def sparse() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (MANY, MANY))


def saved(path: Path, document: object) -> bytes:
    torch.save(document, path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(1).expand(MANY, MANY),
        lambda: torch.empty(MANY, MANY, device="meta"),
        sparse,
    ],
    ids=["one number repeated", "without values", "sparse"],
)
def test_a_tensor_that_would_take_far_more_than_its_file_is_refused(
    path: Path, make: Callable[[], Tensor]
) -> None:
    saved(path, {"state_dict": {"pos_embed": make()}})
    with pytest.raises(InvalidInput, match="pos_embed"):
        checkpoint.read(path)


def test_tensors_that_share_memory_a_few_times_are_read(path: Path) -> None:
    tied = torch.ones(64, 64)
    saved(path, {"head.weight": tied, "norm.weight": tied})
    assert torch.equal(checkpoint.read(path).tensors["norm.weight"], tied)


def test_a_compressed_zip_is_refused_before_it_is_unpacked(path: Path) -> None:
    data = saved(path, {"cls_token": torch.zeros(1, 1, MANY)})
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert path.stat().st_size < MANY / 100
    with pytest.raises(InvalidInput, match="compressed zip"):
        checkpoint.read(path)


def test_a_zip_with_a_damaged_directory_is_refused(path: Path) -> None:
    data = bytearray(saved(path, {"cls_token": torch.zeros(1, 1, 3)}))
    data[data.index(b"PK\x01\x02")] = 0
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"not a whole file of torch\.save"):
        checkpoint.read(path)


def test_a_pickle_that_uses_an_unknown_class_and_then_breaks_is_refused(path: Path) -> None:
    saved(path, {"cls_token": torch.zeros(1, 1, 3)})
    broken = b"\x80\x02cmine\nThing\n\x13."  # after a class that is not read, an operation that there is not
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in parts.items():
            target.writestr(name, broken if name.endswith("data.pkl") else data)
    with pytest.raises(InvalidInput):
        checkpoint.read(path)


@pytest.mark.parametrize("table", registry.ALL, ids=lambda table: table.title)
@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 3, 1, 1, 1)])
def test_known_names_with_tensors_of_any_shape_are_refused(
    table: Names, shape: tuple[int, ...], path: Path
) -> None:
    layer = table.layers[0].format(0)
    names = [part for spellings in table.outside.values() for part in spellings[0]]
    names += [f"{layer}.{part}" for spellings in table.inside.values() for part in spellings[0]]
    tensors = {name: torch.ones(shape) for name in names}
    tensors[names[-1]] = torch.ones(3, 2)
    saved(path, tensors | {"rope_embed.periods": torch.ones(shape), f"{names[-2]}_mask": torch.ones(shape)})
    with pytest.raises(CorollaError):
        backbones.read(str(path), backbones.Request(architecture="vit_tiny_patch16_224"))


@pytest.mark.parametrize("length", [2**63, tensors.MAX_HEADER_BYTES + 1, 100])
def test_a_header_of_safetensors_is_not_parsed_where_it_is_too_long(length: int, tmp_path: Path) -> None:
    data = length.to_bytes(8, "little") + b"{" + b" " * 50
    with pytest.raises(Corrupt, match=r"a header of"):
        tensors.decode(data, key="key", remedy="again")
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"a header of"):
        checkpoint.read(path)


def test_a_file_that_ends_in_its_first_eight_bytes_is_refused() -> None:
    with pytest.raises(Corrupt, match="a header of"):
        tensors.decode(b"\2\0", key="key", remedy="again")


def test_a_tensor_of_safetensors_is_no_larger_than_its_file() -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [MANY, MANY], "data_offsets": [0, 4]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    with pytest.raises(Corrupt):
        tensors.decode(data, key="key", remedy="again")
