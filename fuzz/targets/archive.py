"""Archives of adapters. The first byte says what the rest is: the file, or one of its parts in a good zip."""

import io
import zipfile

import torch

from fuzz.targets import record
from model_store.format import tensors
from model_store.format.records import Archived
from model_store.interchange import archive
from petl_vit.errors import Corrupt, Unsupported

_PARTS = (archive.RECORD, archive.ADAPTER, archive.BASE_HEAD)
_HEAD = {"head.weight": torch.ones(2, 3), "head.bias": torch.zeros(2)}


def seeds() -> list[bytes]:
    whole = _zip(_good())
    return [b"\0" + whole, *(bytes([number + 1]) + _good()[part] for number, part in enumerate(_PARTS))]


def check(data: bytes) -> None:
    if not data:
        return
    which, rest = data[0] % (len(_PARTS) + 1), data[1:]
    whole = rest if which == 0 else _zip(_good() | {_PARTS[which - 1]: rest})
    try:
        read = archive.read(whole)
    except (Corrupt, Unsupported):
        return
    held = [*read.adapter.values(), *read.base_head.values()]
    assert sum(tensor.nbytes for tensor in held) <= len(whole)


def _good() -> dict[str, bytes]:
    said = next(seed[1:] for seed in record.seeds() if record.KINDS[seed[0]] is Archived)
    return dict(zip(_PARTS, (said, tensors.encode(_HEAD), tensors.encode(_HEAD)), strict=True))


def _zip(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, part in parts.items():
            file.writestr(zipfile.ZipInfo(name), part)
    return out.getvalue()
