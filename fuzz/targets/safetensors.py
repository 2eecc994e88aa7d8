"""Weights as safetensors: finite tensors that are no larger than the file, or `Corrupt`."""

import json

import torch

from model_store.format import tensors
from petl_vit.errors import Corrupt


def seeds() -> list[bytes]:
    some = {"a": torch.ones(2, 3), "b.c": torch.zeros(1, dtype=torch.bfloat16)}
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return [tensors.encode(some), len(header).to_bytes(8, "little") + header + bytes(4)]


def check(data: bytes) -> None:
    try:
        decoded = tensors.decode(data, key="key", remedy="again")
    except Corrupt:
        return
    assert sum(tensor.nbytes for tensor in decoded.values()) <= len(data)
    assert tensors.not_finite(decoded) is None
