"""Imported edits of every kind, with random tensors."""

from typing import Any

import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.heads import LinearHead
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import CLASSES

DIAGONAL: list[dict[str, Any]] = [
    {"edit": "input", "site": "blocks.1.mlp.fc2"},
    {"edit": "affine", "site": "blocks.1.mlp.fc1"},
]
TURNED: list[dict[str, Any]] = [
    {"edit": "input", "site": "blocks.0.attn.qkv", "block": 8, "outputs": (96, 192)},
    {"edit": "input", "site": "blocks.2.mlp.fc1", "block": 4, "scale": True},
    {"edit": "affine", "site": "blocks.2.mlp.fc1", "scale": True},
]
OTHERS: list[dict[str, Any]] = [
    {"edit": "low_rank", "site": "blocks.0.attn.proj", "rank": 3, "parts": 4},
    {"edit": "norm", "site": "blocks.1.norm1"},
]
KINDS: dict[str, list[dict[str, Any]]] = {
    "diagonal": DIAGONAL,
    "turned": TURNED,
    "all": [*DIAGONAL, *TURNED, *OTHERS],
    "dense": [*TURNED, {"edit": "dense", "site": "blocks.1.attn.proj"}],
}


def method_of(kind: str) -> Method:
    return methods.get("imported").configure({"source": kind, "parts": KINDS[kind]})


def tensors_of(kind: str, vit: FrozenViT, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = method_of(kind).shapes(vit.arch)
    return {n: 0.3 * torch.randn(shape, generator=generator).to(vit.dtype) for n, shape in shapes.items()}


def imported(kind: str, vit: FrozenViT, seed: int = 0) -> Adapter:
    base = LinearHead.init(CLASSES, vit.arch.width, torch.Generator().manual_seed(1))
    return Adapter.load(
        digest=f"{kind}-{seed}",
        method=method_of(kind),
        tensors=tensors_of(kind, vit, seed) | base.tensors(),
        vit=vit,
        base_head=base.to(device=vit.device, dtype=vit.dtype),
        task_digest="task",
    )
