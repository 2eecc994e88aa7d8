"""Checkpoints. The first byte says what the rest is: a whole file, or the pickle in one of torch.save."""

import io
import tempfile
import zipfile
from pathlib import Path

import torch

from model_store.format import tensors
from model_store.sources import checkpoint
from petl_vit.errors import CorollaError

_PATH = Path(tempfile.mkdtemp(prefix="corolla-fuzz-")) / "model.pth"
_MOST = 64  # bytes of tensors for each byte of the file


def seeds() -> list[bytes]:
    some = {"cls_token": torch.ones(1, 1, 3), "norm.bias": torch.zeros(3)}
    saved = io.BytesIO()
    torch.save({"state_dict": some, "epoch": 3}, saved)
    with zipfile.ZipFile(saved) as file:
        pickle = next(file.read(name) for name in file.namelist() if name.endswith("data.pkl"))
    old = io.BytesIO()
    torch.save(some, old, _use_new_zipfile_serialization=False)
    return [b"\0" + tensors.encode(some), b"\0" + saved.getvalue(), b"\0" + old.getvalue(), b"\1" + pickle]


def check(data: bytes) -> None:
    if not data:
        return
    whole = data[1:] if data[0] % 2 == 0 else _saved(data[1:])
    _PATH.write_bytes(whole)
    try:
        read = checkpoint.read(_PATH)
    except CorollaError:
        return
    held = sum(tensor.nbytes for tensor in read.tensors.values())
    assert held <= _MOST * len(whole), f"{held} bytes of tensors from {len(whole)}"


def _saved(pickle: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        parts = {"data.pkl": pickle, "byteorder": b"little", "data/0": bytes(64), "data/1": bytes(64)}
        for name, part in (parts | {"version": b"3\n"}).items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), part)
    return out.getvalue()
