"""Pickled checkpoints, read without running any of their code.

PyTorch's own restricted reader (`weights_only`) builds tensors and plain values. Everything else that a file
names, such as argparse's Namespace or a whole model, becomes an inert `Placeholder`: the class or function is
neither imported nor called.
"""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_store.format.zips import UNREADABLE
from petl_vit.errors import InvalidInput

_MOST = 256
"""Names of classes and functions that a file may use."""
_LISTED = 4
_MOST_TIMES = 64
"""Bytes of float32 tensors for each byte of their file; those that share memory count each by itself."""
_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+)")
_MODULE = "placeholder"
_FILLED = re.compile(rf"Can only (SETITEM|append|extend).* but got <class '{_MODULE}\.(.+?)'>")
"""What the reader says of a placeholder that is to be filled as a dict or as a list."""


class Placeholder:
    """What stands for an object of a class that is not read."""

    def __init__(self, *args: object, **keywords: object) -> None:
        """Takes whatever the object was made from, and keeps none of it."""

    def __setstate__(self, state: object) -> None:
        """Takes whatever the object held."""


class _Table:
    """What stands for a class that was derived from dict: a plain table, which the reader can fill."""

    def __new__(cls, *args: object) -> Any:
        return OrderedDict()


class _Sequence:
    """The same for list."""

    def __new__(cls, *args: object) -> Any:
        return []


def read(path: Path) -> tuple[object, tuple[str, ...]]:
    """What a file of `torch.save` holds, on the CPU, and the names of the classes that became placeholders.

    Raises:
        InvalidInput: It is not such a file, or not one that can be read without running code.
    """
    _check_zip(path)
    kinds: dict[str, type] = {}
    while True:
        try:
            return _load(path, kinds), tuple(kinds)
        except pickle.UnpicklingError as error:
            unknown, filled = _UNKNOWN.search(str(error)), _FILLED.search(str(error))
            if filled is not None and kinds.get(filled[2]) is Placeholder:
                kinds[filled[2]] = _Table if filled[1] == "SETITEM" else _Sequence
            elif unknown is not None and unknown[1] not in kinds and len(kinds) < _MOST:
                kinds = dict.fromkeys([unknown[1], *_unread(path)], Placeholder) | kinds
            else:
                raise _refusal(path, error, tuple(kinds)) from error
        except Exception as error:  # a foreign file fails in the reader's own ways
            raise _refusal(path, error, tuple(kinds)) from error


def check_size(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors that are not plain, or would take far more memory than their file.

    A few bytes can say that one number is repeated to any shape, and a tensor may have no values at all.

    Raises:
        InvalidInput: Such a tensor; names it.
    """
    most, total = _MOST_TIMES * path.stat().st_size, 0
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        total += tensor.numel() * max(tensor.element_size(), 4)
        if not plain or total > most:
            why = (
                f"would take more than {_MOST_TIMES} times the memory of its file"
                if plain
                else "is not dense"
            )
            raise InvalidInput(
                f"tensor {name[:80]!r} {why}",
                field=path.name,
                remedy="save plain tensors: each .dequantize() or .to_dense(), then .contiguous()",
            )


def listed(names: tuple[str, ...]) -> str:
    """Some of the names of a file's classes."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def whole_model(path: Path, names: tuple[str, ...]) -> InvalidInput:
    """The error for a file that holds a model and not its state dict."""
    return InvalidInput(
        f"it holds a whole pickled object ({listed(names)}) and no table of tensors",
        field=path.name,
        remedy="where you trust it, save its state dict: "
        f"torch.save(torch.load({path.name!r}, weights_only=False).state_dict(), 'weights.pth')",
    )


def _check_zip(path: Path) -> None:
    """Refuses a zip with compressed tensors, which torch.save does not write; TorchScript's code may be."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as file:
            infos = file.infolist()
    except UNREADABLE as error:
        raise _refusal(path, error, ()) from error
    unpacked = sum(info.file_size for info in infos)
    stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos if "/data/" in info.filename)
    if unpacked > _MOST_TIMES * path.stat().st_size or not stored:
        raise InvalidInput(
            f"it is a compressed zip, of {unpacked:,} bytes unpacked, and torch.save compresses nothing",
            field=path.name,
            remedy="unpack it, or save the state dict again",
        )


def _load(path: Path, kinds: dict[str, type]) -> object:
    placeholders: list[Any] = [(type(n, (kind,), {"__module__": _MODULE}), n) for n, kind in kinds.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(placeholders):
        warnings.simplefilter("ignore")  # a TorchScript archive warns, and is refused below
        with path.open("rb") as file:  # by a path, torch would go by its ending
            return torch.load(file, map_location="cpu", weights_only=True)


def _unread(path: Path) -> list[str]:
    """All names that `weights_only` does not know; none where that cannot be told."""
    try:
        with path.open("rb") as file:
            return list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # the format before 1.6, or a damaged file, which is refused by name
        return []


def _refusal(path: Path, error: Exception, names: tuple[str, ...]) -> InvalidInput:
    text = str(error)
    if "TorchScript" in text:
        problem = "it is a TorchScript archive, whose code would have to run"
        load = f"torch.jit.load({path.name!r}).state_dict()"
    elif (blocked := re.search(r"GLOBAL (\S+) whose module \S+ is blocked", text)) is not None:
        return InvalidInput(
            f"it would call {blocked[1]}, which no checkpoint needs",
            field=path.name,
            remedy="do not load it anywhere; code in a pickle is never run here",
        )
    elif isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in text:
        held = f"holds objects that cannot be left out: {listed(names)}" if names else "is not one of tensors"
        problem = f"the checkpoint {held}"
        load = f"torch.load({path.name!r}, weights_only=False)['state_dict']"
    else:
        return InvalidInput(
            f"not a whole file of torch.save ({(text.splitlines() or [type(error).__name__])[0][:120]})",
            field=path.name,
            remedy="copy it again",
        )
    return InvalidInput(
        problem,
        field=path.name,
        remedy=f"code in a pickle is never run; where you trust it, torch.save({load}, 'weights.pth')",
    )
