"""A folder that Hugging Face PEFT saved: adapter_config.json with adapter_model.safetensors or .bin.

Reads the two files, whatever the type of the adapter; `peft_types` has a reader for each type. Needs no PEFT.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from model_store.format import tensors
from model_store.interchange.peft_names import CONFIG, MERGE, PICKLED, WEIGHTS, Adapted
from model_store.sources import file_kind, hub_folder, pickled
from petl_vit.architecture import Architecture
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Unsupported

LINEARISED = "linearized_adapter_model.safetensors"
_REMEDY = "save it again with PEFT"


@dataclass(frozen=True, kw_only=True)
class PeftFolder:
    """The two files of a folder.

    Attributes:
        peft_type: Such as "LORA", as the config says it.
        config: All of adapter_config.json.
        tensors: By their names in the file.
        notes: What the user should know of how it was read.
    """

    name: str
    peft_type: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a reader of one type is given: a folder, sorted by the linears and norms of a backbone.

    Attributes:
        adapted: The tensors of every module that is one of the backbone's, at least one.
        others: What is at no such module and in no head, by its name: tensors that all modules share.
        load: Loads the frozen weights.
    """

    folder: PeftFolder
    arch: Architecture
    adapted: tuple[Adapted, ...]
    others: dict[str, Tensor]
    load: Callable[[], Mapping[str, Tensor]]

    @cached_property
    def frozen(self) -> Mapping[str, Tensor]:
        """The backbone's parameters by our names, for types whose change depends on them."""
        return self.load()

    @property
    def source(self) -> dict[str, Any]:
        """What the manifest says of where it came from."""
        return {
            "imported_from": "peft",
            "folder": self.folder.name,
            "adapter_config": self.folder.config,
        }


def refusal(what: str, why: str) -> Unsupported:
    """The error for a config whose change has no exact form here."""
    return Unsupported(
        f"{what} cannot be represented exactly: {why}",
        field=CONFIG,
        remedy=f"train a plain LoRA, or {MERGE}",
    )


def read(folder: Path) -> PeftFolder:
    """Read a PEFT folder of any type.

    Raises:
        NotFound: It, or one of its two files, does not exist.
        InvalidInput: A file cannot be read, or not without running its code.
        Corrupt: It is not what PEFT writes.
    """
    if not folder.is_dir():
        raise _not_a_folder(folder)
    config = _read_config(_file(folder, CONFIG))
    found, notes = _weights(folder)
    if config.get("base_model_name_or_path"):
        base = str(config["base_model_name_or_path"])[:80]
        notes.append(f"it was trained over {base!r}, and is right only over a backbone of those weights")
    return PeftFolder(
        name=folder.name,
        peft_type=config["peft_type"],
        config=config,
        tensors=found,
        notes=tuple(notes),
    )


def _read_config(data: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Corrupt(f"not a JSON object ({error})", field=CONFIG, remedy=_REMEDY) from error
    if not isinstance(raw, dict):
        raise Corrupt("not a JSON object", field=CONFIG, remedy=_REMEDY)
    if not isinstance(raw.get("peft_type"), str):
        raise Corrupt("it names no peft_type", field=CONFIG, remedy=_REMEDY)
    return raw


def _not_a_folder(path: Path) -> NotFound:
    if not path.exists():
        problem, remedy = "does not exist", f"give the folder that holds {CONFIG}"
    elif path.name in (CONFIG, WEIGHTS, PICKLED):
        problem, remedy = "is a file of a PEFT folder", f"give the folder: {path.parent}"
    else:
        problem = "is a file and not a folder of PEFT"
        remedy = "a whole checkpoint has --format timm, a file of `corolla adapters export` --format archive"
    return NotFound(f"{path} is not a folder: it {problem}", field="path", remedy=remedy)


def _weights(folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a folder; and what the user should know of their file."""
    if (folder / WEIGHTS).exists() or not (folder / PICKLED).is_file():
        data = _file(folder, WEIGHTS)
        file_kind.check(data, WEIGHTS)
        return tensors.decode(data, key=WEIGHTS, remedy=_REMEDY), []
    file_kind.check(_file(folder, PICKLED), PICKLED)
    document, _ = pickled.read(folder / PICKLED)
    table = document if isinstance(document, dict) else {}
    found = {str(name): tensor for name, tensor in table.items() if isinstance(tensor, Tensor)}
    pickled.check_size(found, folder / PICKLED)
    bad = tensors.not_finite(found)
    if bad is not None:
        raise Corrupt(f"tensor {bad!r} holds NaN or an infinity", field=PICKLED, remedy=_REMEDY)
    return found, [f"{PICKLED} was read, its code was not run; safe_serialization=True saves {WEIGHTS}"]


def _file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{folder} has no {name}", field="path", remedy=_instead(folder)) from None
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read ({error.strerror})", field="path") from error


def _instead(folder: Path) -> str:
    """What to give instead of a folder that lacks a file."""
    if (folder / LINEARISED).is_file():
        return (
            f"{LINEARISED} is of L-LoRA, linearised at its starting point (arXiv 2310.04742), which is no "
            f"product: {MERGE}"
        )
    named = sorted(str(config.parent) for config in folder.glob(f"*/{CONFIG}"))
    if named:
        return f"PEFT saves a named adapter in a folder of its own: write {' or '.join(named[:3])}"
    if (folder / "config.json").is_file() and any((folder / name).is_file() for name in hub_folder.WEIGHTS):
        return "it holds a whole model: --format timm, or `corolla backbones import`"
    return "save it with model.save_pretrained(folder)"
