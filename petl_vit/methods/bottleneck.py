"""The bottleneck of several methods: its tensors' names and shapes, its inits, its edit.

A(u) = s (drop(act(u W_d + b_d)) W_u + b_u). Inits as the study's configs name them; its published runs had
others (`Method.init_published`).
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
from petl_vit.vit import FrozenViT

LINEARS = ("down.weight", "down.bias", "up.weight", "up.bias")
"""How the names of a bottleneck's linear layers end."""

LAYER_SCALE = "scale the branch by the backbone's LayerScale, where it has one, as the study's code does"
"""The description of a parallel branch's `layer_scale`."""


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
    layer_scale: FrozenViT | None = None,
) -> list[Edit]:
    """The edits of named bottlenecks.

    Args:
        sublayers: The sublayer of each named bottleneck.
        conv: The convolution of a named bottleneck.
        layer_scale: The backbone whose LayerScale multiplies the branches' outputs, if any does. It is a
            factor for each channel behind a linear, so W_u and b_u take it: exact in every executor.
    """
    gammas = {} if layer_scale is None else _layer_scale(layer_scale)
    return [
        Branch(
            sublayer=sublayer,
            source=source,
            down=tensors[f"{name}.down.weight"],
            down_bias=tensors[f"{name}.down.bias"],
            up=_times(tensors[f"{name}.up.weight"], gammas.get(sublayer)),
            up_bias=_times(tensors[f"{name}.up.bias"], gammas.get(sublayer)),
            scale=scale,
            activation=activation,
            conv=conv(name),
            dropout=dropout,
        )
        for name, sublayer in sublayers.items()
    ]


def notes(arch: Architecture, *, layer_scale: bool) -> list[str]:
    """Whether `layer_scale` is asked for and has no effect."""
    if layer_scale and not arch.layer_scale:
        return [f"layer_scale changes nothing: {arch.name} has no LayerScale"]
    return []


def _layer_scale(vit: FrozenViT) -> dict[str, Tensor]:
    """The LayerScale [D] of each sublayer; empty where the backbone has none."""
    if not vit.arch.layer_scale:
        return {}
    parts = {"attn": "ls1", "mlp": "ls2"}
    return {
        f"blocks.{i}.{part}": vit.params[f"blocks.{i}.{name}.gamma"]
        for i in range(vit.arch.depth)
        for part, name in parts.items()
    }


def _times(tensor: Tensor, gamma: Tensor | None) -> Tensor:
    """[..., D] times LayerScale [D]."""
    return tensor if gamma is None else tensor * gamma
