"""A Vision Transformer in somebody else's file: safetensors or pickled, wrapped, timm's or transformers'.

Becomes tensors under timm's names and notes for the user. Whether they are those of an architecture is for
the reader of these to say: a backbone (`model_store.sources.backbones`), or a whole classifier
(`model_store.interchange.timm_checkpoint`).
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from model_store.format.tensors import check_header, not_finite
from model_store.format.zips import UNREADABLE
from model_store.sources import file_kind, gated, hub_folder, others, pickled, wrapping
from model_store.sources.families import registry
from model_store.sources.families.names import Names
from model_store.sources.said import Said
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_NOT_OF_AN_ENCODER = ("mask_token", "decoder_", "decoder.", "pooler.")
_DEEPEST = 8
_OURS = "corolla"
"""In the header of the files that `corolla adapters fold` writes."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of one ViT, with its head if it has one.

    Attributes:
        name: Of the file or folder.
        tensors: On the CPU, floating-point ones in float32.
        header: The file's metadata, of safetensors.
        said: What stands beside the tensors.
        names: What names the tensors had in the file; None: timm's.
        notes: What was chosen, converted or left out.
    """

    name: str
    tensors: dict[str, Tensor]
    header: dict[str, str] = field(default_factory=dict)
    said: Said = field(default_factory=Said)
    names: Names | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Table:
    """All tensors of a file; those in a container have its name in front."""

    tensors: dict[str, Tensor]
    header: dict[str, str] = field(default_factory=dict)
    said: Said = field(default_factory=Said)
    notes: tuple[str, ...] = ()


def read(
    path: Path, *, prefix: str | None = None, ema: bool | None = None, field: str = "source"
) -> Checkpoint:
    """Read a file, or a folder of a model hub.

    Args:
        prefix: What the names of the ViT's tensors begin with; None looks for it.
        ema: Whether averaged weights are meant where the file has both; None takes them, as timm does.
        field: What errors call the path.

    Raises:
        NotFound: It does not exist, or no name begins with `prefix`.
        InvalidInput: It is not whole, cannot be read without running code, or holds no tensors or several
            ViTs.
        Corrupt: A tensor is not finite.
    """
    try:
        table, said = _table(path)
    except CorollaError as error:
        raise (error.about(field) if error.field == "source" else error) from error
    unwrapped = wrapping.unwrap(table.tensors, what=path.name, prefix=prefix, ema=ema)
    others.check(unwrapped.tensors, path.name, has_vit=unwrapped.has_vit)
    tensors, names = registry.ours(unwrapped.tensors, path.name)
    notes = [*table.notes, *unwrapped.notes]
    head = unwrapped.head
    if names is not None:
        notes.insert(0, f"it has the names of {names.title}, which were converted to timm's")
        if head and names.classifier_reads is not None:
            head = {}
            notes.append(f"its classifier was left out, as it reads {names.classifier_reads}")
    tensors, without = _encoder(tensors | head)
    if without:
        notes.append(f"left out what is not the encoder's: {wrapping.listed(without)}")
    bad = not_finite(tensors)
    if bad is not None:
        raise Corrupt(f"tensor {bad!r} holds NaN or an infinity", field=path.name, remedy="save it again")
    said = gated.told_apart(said if said.architecture else table.said, tensors)
    return Checkpoint(
        name=path.name,
        tensors=tensors,
        header=table.header,
        said=said,
        names=names,
        notes=(*notes, *said.notes),
    )


def all_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, by its name there, with those of containers under the container's name.

    Raises:
        NotFound, InvalidInput: As `read` does.
    """
    return _file(path).tensors


def _table(path: Path) -> tuple[_Table, Said]:
    if not path.is_dir():
        beside = path.name in hub_folder.WEIGHTS
        return _file(path), hub_folder.said(path.parent) if beside else Said()
    tables = [_file(file) for file in hub_folder.files(path)]
    merged = {name: tensor for table in tables for name, tensor in table.tensors.items()}
    notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
    return _Table(tensors=merged, header=tables[0].header, notes=notes), hub_folder.said(path)


def _file(path: Path) -> _Table:
    if not path.is_file():
        raise NotFound(f"{str(path)!r} is not a file", field="source", remedy="check the path")
    if is_archive(path):
        raise InvalidInput(
            "it is an archive of corolla, with an adapter and not a whole model",
            field=path.name,
            remedy="use `corolla adapters import --format archive`",
        )
    table = _safetensors(path) if file_kind.is_safetensors(path) else _pickled(path)
    if not table.tensors:
        raise InvalidInput("it holds no tensors", field=path.name, remedy="save a state dict")
    return table


def is_archive(path: Path) -> bool:
    """Whether a file is what `corolla adapters export --format archive` writes."""
    try:
        with zipfile.ZipFile(path) as file:
            return "corolla.json" in file.namelist()
    except UNREADABLE:  # no zip, or a damaged one
        return False


def _safetensors(path: Path) -> _Table:
    try:
        with path.open("rb") as start:
            check_header(start.read(8), path.stat().st_size)
        with safetensors.safe_open(path, "pt") as file:
            header = {str(k): str(v) for k, v in (file.metadata() or {}).items()}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        problem = f"not a whole safetensors file ({error})"
        raise InvalidInput(problem, field=path.name, remedy="copy it again") from error
    return _Table(
        tensors={name: _plain(tensor) for name, tensor in stored.items()},
        header=header,
        said=_of_ours(header) if _OURS in header else Said(),
        notes=_precision(stored.values()),
    )


def _of_ours(header: Mapping[str, str]) -> Said:
    """What a file that `corolla adapters fold` wrote says of itself."""

    def value(name: str) -> Any:
        try:
            return json.loads(header.get(name, "null"))
        except ValueError:
            return None

    options, size, classes = value("options"), value("image_size"), value("classes")
    return Said(
        architecture=header.get("architecture"),
        options=options if isinstance(options, dict) else {},
        image_size=size if isinstance(size, int) else None,
        mean=hub_folder.triple(value("mean")),
        std=hub_folder.triple(value("std")),
        classes=tuple(map(str, classes)) if isinstance(classes, list) else None,
    )


def _pickled(path: Path) -> _Table:
    document, names = pickled.read(path)
    found = dict(_flat(document))
    pickled.check_size(found, path)
    tensors = {name: _plain(tensor) for name, tensor in found.items()}
    if not tensors and names:
        raise pickled.whole_model(path, names)
    notes = list(_precision(found.values()))
    if names:
        notes.append(
            f"it holds objects beside tensors, which were left out ({pickled.listed(names)}); "
            "code in a pickle is never run"
        )
    arch = document.get("arch") if isinstance(document, Mapping) else None
    return _Table(
        tensors=tensors, notes=tuple(notes), said=Said(architecture=arch if isinstance(arch, str) else None)
    )


def _flat(document: object, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tables, with dotted names."""
    if not isinstance(document, Mapping) or depth == _DEEPEST:
        return
    for key, value in document.items():
        if isinstance(value, Tensor):
            yield str(key), value
        else:
            yield from ((f"{key}.{name}", tensor) for name, tensor in _flat(value, depth + 1))


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _precision(tensors: Iterable[Tensor]) -> tuple[str, ...]:
    """What to say of tensors that were not saved in float32."""
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} - {torch.float32}
    if not kinds:
        return ()
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    change = "rounds them" if torch.float64 in kinds else "changes no value"
    return (f"it holds tensors in {names}, which become float32; that {change}",)


def _encoder(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the encoder and its head, registers as timm has them; and the names of the others."""
    without = [name for name in tensors if name.startswith(_NOT_OF_AN_ENCODER)]
    kept = {name: tensor for name, tensor in tensors.items() if name not in without}
    position = kept.get("pos_embed")
    if "reg_token" in kept and "cls_token" in kept and position is not None and _covers_class(position):
        kept["cls_token"] = kept["cls_token"] + position[:, :1]  # timm's has no position of its own
        kept["pos_embed"] = position[:, 1:]
    return kept, without


def _covers_class(position: Tensor) -> bool:
    """Whether a position embedding [1, N, D] has a place for the class token before a square of patches."""
    patches = position.shape[1] - 1 if position.dim() == 3 else 0
    return patches > 0 and round(patches**0.5) ** 2 == patches
