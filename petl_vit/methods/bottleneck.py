"""The bottleneck that adapters share: its tensors' names and shapes, its inits, its edit.

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
    """How a bottleneck starts."""

    LORA_KAIMING = "lora_kaiming"  # W_d kaiming-uniform (a = sqrt 5), the rest 0
    LORA_XAVIER = "lora_xavier"  # W_d xavier-uniform, the rest 0
    XAVIER = "xavier"  # both xavier-uniform, biases N(0, 1e-6)
    ZERO = "zero"  # W_d and W_u 0, b_d as a linear layer's default, b_u 0


def sublayers(arch: Architecture, suffix: str, parts: tuple[str, ...] = ("attn", "mlp")) -> dict[str, str]:
    """The name of each bottleneck and the sublayer it belongs to."""
    found = [f"blocks.{i}.{part}" for i in range(arch.depth) for part in parts]
    return {f"{sublayer}_{suffix}": sublayer for sublayer in found}


def shapes(names: Iterable[str], width: int, rank: int) -> Shapes:
    """Tensors of every named bottleneck."""
    found: Shapes = {}
    for name in names:
        found[f"{name}.down.weight"] = (width, rank)
        found[f"{name}.down.bias"] = (rank,)
        found[f"{name}.up.weight"] = (rank, width)
        found[f"{name}.up.bias"] = (width,)
    return found


def init(
    names: Iterable[str], width: int, rank: int, kind: Init, generator: torch.Generator
) -> dict[str, Tensor]:
    """Starting tensors of every named bottleneck."""
    found: dict[str, Tensor] = {}
    for name in names:
        found |= _init_one(name, width, rank, kind, generator)
    return found


def _init_one(name: str, width: int, rank: int, kind: Init, generator: torch.Generator) -> dict[str, Tensor]:
    found = {key: torch.zeros(shape) for key, shape in shapes([name], width, rank).items()}
    xavier, kaiming = math.sqrt(6 / (width + rank)), 1 / math.sqrt(width)
    if kind is Init.ZERO:
        found[f"{name}.down.bias"] = uniform((rank,), kaiming, generator)
        return found
    bound = kaiming if kind is Init.LORA_KAIMING else xavier
    found[f"{name}.down.weight"] = uniform((width, rank), bound, generator)
    if kind is Init.XAVIER:
        found[f"{name}.up.weight"] = uniform((rank, width), xavier, generator)
        for key in (f"{name}.down.bias", f"{name}.up.bias"):
            found[key] = torch.empty(found[key].shape).normal_(0, 1e-6, generator=generator)
    return found


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
    """The edits that bottlenecks make.

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
