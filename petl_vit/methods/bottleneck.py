"""The bottleneck that adapters share: its tensors' names and shapes, its inits, its edit.

A(u) = s (drop(act(u W_d + b_d)) W_u + b_u). Inits as the study names them.
"""

import math
from collections.abc import Callable, Mapping
from enum import StrEnum

import torch
from torch import Tensor

from petl_vit.edits import Branch, Conv, Source
from petl_vit.methods.method import uniform
from petl_vit.vit import Shapes


class Init(StrEnum):
    """How a bottleneck starts."""

    LORA_KAIMING = "lora_kaiming"  # W_d kaiming-uniform (a = sqrt 5), the rest 0
    LORA_XAVIER = "lora_xavier"  # W_d xavier-uniform, the rest 0
    XAVIER = "xavier"  # both xavier-uniform, biases N(0, 1e-6)
    ZERO = "zero"  # W_d and W_u 0, b_d as a linear layer's default, b_u 0


def shapes(prefix: str, width: int, rank: int) -> Shapes:
    return {
        f"{prefix}.down.weight": (width, rank),
        f"{prefix}.down.bias": (rank,),
        f"{prefix}.up.weight": (rank, width),
        f"{prefix}.up.bias": (width,),
    }


def init(prefix: str, width: int, rank: int, kind: Init, generator: torch.Generator) -> dict[str, Tensor]:
    """Starting tensors of one bottleneck."""
    found = {name: torch.zeros(shape) for name, shape in shapes(prefix, width, rank).items()}
    xavier, kaiming = math.sqrt(6 / (width + rank)), 1 / math.sqrt(width)
    if kind is Init.ZERO:
        found[f"{prefix}.down.bias"] = uniform((rank,), kaiming, generator)
        return found
    bound = kaiming if kind is Init.LORA_KAIMING else xavier
    found[f"{prefix}.down.weight"] = uniform((width, rank), bound, generator)
    if kind is Init.XAVIER:
        found[f"{prefix}.up.weight"] = uniform((rank, width), xavier, generator)
        for name in (f"{prefix}.down.bias", f"{prefix}.up.bias"):
            found[name] = torch.empty(found[name].shape).normal_(0, 1e-6, generator=generator)
    return found


def branch(
    tensors: Mapping[str, Tensor],
    prefix: str,
    *,
    sublayer: str,
    source: Source,
    scale: float,
    dropout: float,
    activation: Callable[[Tensor], Tensor],
    conv: Conv | None = None,
) -> Branch:
    """The edit that a bottleneck makes."""
    return Branch(
        sublayer=sublayer,
        source=source,
        down=tensors[f"{prefix}.down.weight"],
        down_bias=tensors[f"{prefix}.down.bias"],
        up=tensors[f"{prefix}.up.weight"],
        up_bias=tensors[f"{prefix}.up.bias"],
        scale=scale,
        activation=activation,
        conv=conv,
        dropout=dropout,
    )
