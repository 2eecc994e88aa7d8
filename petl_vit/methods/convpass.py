"""Convpass: a trained bottleneck with a 3x3 convolution beside attention and MLP (arXiv 2207.07039).

X += DP(Attn(Z)) + DP'(s K(Z)), Z = LN1 X, and the same for the MLP; K(z) = drop(q(C3x3(q(z W_d + b_d)))) W_u
+ b_u with q(t) = t sigmoid(1.702 t). Patch tokens form a map; class and register tokens are images of one
pixel. W_d xavier-uniform, W_u zero; the convolution starts as the identity, or xavier-uniform.
Parameters: 2 M (2 D r + 2 r + 9 r^2 + D); ViT-B/16 r=8 327,552.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from timm.layers import quick_gelu
from torch import Tensor

from petl_vit.edits import Conv, Edit, Source
from petl_vit.methods import bottleneck
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.vit import Architecture, FrozenViT, Shapes


class Convpass(Method):
    """Convolutional bypasses."""

    name: ClassVar[str] = "convpass"
    title: ClassVar[str] = "Convpass"
    paper: ClassVar[str] = "arXiv 2207.07039"
    foldable: ClassVar[bool] = False

    rank: int = Field(default=8, ge=1, le=1024, description="width of the bottleneck")
    scale: float = Field(default=1.0, gt=0, le=100, description="factor on the branch's output")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")
    xavier_conv: bool = Field(default=False, description="start the convolution at random")

    def shapes(self, arch: Architecture) -> Shapes:
        found: Shapes = {}
        for prefix in _sublayers(arch):
            found |= bottleneck.shapes(prefix, arch.width, self.rank)
            found[f"{prefix}.conv.weight"] = (self.rank, self.rank, 3, 3)
            found[f"{prefix}.conv.bias"] = (self.rank,)
        return found

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        rank, kind = self.rank, bottleneck.Init.LORA_XAVIER
        for prefix in _sublayers(vit.arch):
            found |= bottleneck.init(prefix, vit.arch.width, rank, kind, generator)
            weight = torch.zeros(rank, rank, 3, 3)
            weight[:, :, 1, 1] = torch.eye(rank)
            random = uniform((rank, rank, 3, 3), math.sqrt(6 / (2 * 9 * rank)), generator)
            found[f"{prefix}.conv.weight"] = random if self.xavier_conv else weight
            found[f"{prefix}.conv.bias"] = torch.zeros(rank)
        return found

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [
            bottleneck.branch(
                tensors,
                prefix,
                sublayer=sublayer,
                source=Source.NORMED,
                scale=self.scale,
                dropout=self.dropout,
                activation=quick_gelu,
                conv=Conv(
                    weight=tensors[f"{prefix}.conv.weight"],
                    bias=tensors[f"{prefix}.conv.bias"],
                    grid=vit.arch.grid,
                ),
            )
            for prefix, sublayer in _sublayers(vit.arch).items()
        ]


def _sublayers(arch: Architecture) -> dict[str, str]:
    """Each bypass's name and the sublayer it stands beside."""
    return {
        f"blocks.{i}.{part}_conv": f"blocks.{i}.{part}" for i in range(arch.depth) for part in ("attn", "mlp")
    }
