"""The bottleneck of several methods: its tensors' names and shapes, its inits, its edit.

A(u) = s (drop(act(u W_d + b_d)) W_u + b_u). Inits as the study names them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.branch import Branch, Conv, Source
from petl_vit.edits import Edit
from petl_vit.methods.method import uniform


class Init(StrEnum):
    """The initial values of a bottleneck."""

    LORA_KAIMING = "lora_kaiming"  # W_d kaiming-uniform (a = sqrt 5), the rest 0
    LORA_XAVIER = "lora_xavier"  # W_d xavier-uniform, the rest 0
    XAVIER = "xavier"  # both xavier-uniform, biases N(0, 1e-6)
    ZERO = "zero"  # W_d and W_u 0, b_d as a linear layer's default, b_u 0


def sublayers(arch: Architecture, suffix: str, parts: tuple[str, ...] = ("attn", "mlp")) -> dict[str, str]:
    """The name of each bottleneck and the sublayer it belongs to."""
    names = [f"blocks.{i}.{part}" for i in range(arch.depth) for part in parts]
    return {f"{sublayer}_{suffix}": sublayer for sublayer in names}


def shapes(names: Iterable[str], width: int, rank: int) -> Shapes:
    """Names and shapes of the tensors of every named bottleneck."""
    shapes: Shapes = {}
    for name in names:
        shapes[f"{name}.down.weight"] = (width, rank)
        shapes[f"{name}.down.bias"] = (rank,)
        shapes[f"{name}.up.weight"] = (rank, width)
        shapes[f"{name}.up.bias"] = (width,)
    return shapes


def init(
    names: Iterable[str], width: int, rank: int, kind: Init, generator: torch.Generator
) -> dict[str, Tensor]:
    """Starting tensors of every named bottleneck."""
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= _init_one(name, width, rank, kind, generator)
    return tensors


def _init_one(name: str, width: int, rank: int, kind: Init, generator: torch.Generator) -> dict[str, Tensor]:
    tensors = {key: torch.zeros(shape) for key, shape in shapes([name], width, rank).items()}
    xavier, kaiming = math.sqrt(6 / (width + rank)), 1 / math.sqrt(width)
    if kind is Init.ZERO:
        tensors[f"{name}.down.bias"] = uniform((rank,), kaiming, generator)
        return tensors
    bound = kaiming if kind is Init.LORA_KAIMING else xavier
    tensors[f"{name}.down.weight"] = uniform((width, rank), bound, generator)
    if kind is Init.XAVIER:
        tensors[f"{name}.up.weight"] = uniform((rank, width), xavier, generator)
        for key in (f"{name}.down.bias", f"{name}.up.bias"):
            tensors[key] = torch.empty(tensors[key].shape).normal_(0, 1e-6, generator=generator)
    return tensors


def branches(
    tensors: Mapping[str, Tensor],
    sublayers: Mapping[str, str],
    *,
    source: Source,
    scale: float,
    dropout: float,
    activation: Callable[[Tensor], Tensor],
    conv: Callable[[str], Conv | None] = lambda name: None,
) -> list[Edit]:
    """The edits of named bottlenecks.

    Args:
        sublayers: The sublayer of each named bottleneck.
        conv: The convolution of a named bottleneck.
    """
    return [
        Branch(
            sublayer=sublayer,
            source=source,
            down=tensors[f"{name}.down.weight"],
            down_bias=tensors[f"{name}.down.bias"],
            up=tensors[f"{name}.up.weight"],
            up_bias=tensors[f"{name}.up.bias"],
            scale=scale,
            activation=activation,
            conv=conv(name),
            dropout=dropout,
        )
        for name, sublayer in sublayers.items()
    ]
