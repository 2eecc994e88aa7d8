"""Convpass: a trained bottleneck with a 3x3 convolution beside attention and MLP (arXiv 2207.07039).

X += DP(Attn(Z)) + DP'(s K(Z)), Z = LN1 X, and the same for the MLP; K(z) = drop(q(C3x3(q(z W_d + b_d)))) W_u
+ b_u with q(t) = t sigmoid(1.702 t). Patch tokens form a map; class and register tokens are images of one
pixel. With layer_scale the branch is multiplied by its sublayer's LayerScale, as in the study's code. W_d
xavier-uniform, W_u zero; the convolution starts as the identity, or xavier-uniform.
Parameters: 2 M (2 D r + 2 r + 9 r^2 + D); ViT-B/16 r=8 327,552.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes, quick_gelu
from petl_vit.branch import Conv, Source
from petl_vit.edits import Edit
from petl_vit.methods import bottleneck
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.vit import FrozenViT


class Convpass(Method):
    """Convolutional bypasses."""

    name: ClassVar[str] = "convpass"
    title: ClassVar[str] = "Convpass"
    paper: ClassVar[str] = "arXiv 2207.07039"
    foldable: ClassVar[bool] = False
    published_linears: ClassVar[tuple[str, ...]] = bottleneck.LINEARS  # the convolution is not one

    rank: int = Field(default=8, ge=1, le=1024, description="width of the bottleneck")
    scale: float = Field(default=1.0, gt=0, le=100, description="factor on the branch's output")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")
    xavier_conv: bool = Field(default=False, description="start the convolution at random")
    layer_scale: bool = Field(default=False, description=bottleneck.LAYER_SCALE)

    def shapes(self, arch: Architecture) -> Shapes:
        names = bottleneck.sublayers(arch, "conv")
        shapes = bottleneck.shapes(names, arch.width, self.rank)
        for name in names:
            shapes[f"{name}.conv.weight"] = (self.rank, self.rank, 3, 3)
            shapes[f"{name}.conv.bias"] = (self.rank,)
        return shapes

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        names, rank = bottleneck.sublayers(vit.arch, "conv"), self.rank
        tensors = bottleneck.init(names, vit.arch.width, rank, bottleneck.Init.LORA_XAVIER, generator)
        identity = torch.zeros(rank, rank, 3, 3)
        identity[:, :, 1, 1] = torch.eye(rank)
        for name in names:
            random = uniform((rank, rank, 3, 3), math.sqrt(6 / (2 * 9 * rank)), generator)
            tensors[f"{name}.conv.weight"] = random if self.xavier_conv else identity.clone()
            tensors[f"{name}.conv.bias"] = torch.zeros(rank)
        return tensors

    def notes(self, arch: Architecture, *, published: bool = False) -> list[str]:
        return bottleneck.notes(arch, layer_scale=self.layer_scale)

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        def conv(name: str) -> Conv:
            weight, bias = tensors[f"{name}.conv.weight"], tensors[f"{name}.conv.bias"]
            return Conv(weight=weight, bias=bias, grid=vit.arch.grid)

        return bottleneck.branches(
            tensors,
            bottleneck.sublayers(vit.arch, "conv"),
            source=Source.NORMED,
            scale=self.scale,
            dropout=self.dropout,
            activation=quick_gelu,
            conv=conv,
            layer_scale=vit if self.layer_scale else None,
        )
