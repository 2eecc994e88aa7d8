"""Pfeiffer: a trained bottleneck with an inner skip behind every MLP (arXiv 2007.07779).

u = MLP(LN2 X); X += DP(u + s (drop(ReLU(u W_d + b_d)) W_u + b_u)). Three starts: lora_xavier (W_u zero),
xavier (both random, so it does not start as the identity) and zero. The study's configs name lora_xavier, but
its runs started all three from N(0, 0.02), which is --init published.
Parameters: M (2 D r + r + D); ViT-B/16 r=32 599,424.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.branch import Source
from petl_vit.edits import Edit
from petl_vit.methods import bottleneck
from petl_vit.methods.method import Method, Tensors
from petl_vit.vit import FrozenViT


class Pfeiffer(Method):
    """Bottleneck adapters behind the MLP."""

    name: ClassVar[str] = "pfeiffer"
    title: ClassVar[str] = "Pfeiffer adapter"
    paper: ClassVar[str] = "arXiv 2007.07779"
    foldable: ClassVar[bool] = False
    published_linears: ClassVar[tuple[str, ...]] = bottleneck.LINEARS

    rank: int = Field(default=32, ge=1, le=1024, description="width of the bottleneck")
    scale: float = Field(default=1.0, gt=0, le=100, description="factor on the branch's output")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")
    start: Literal[bottleneck.Init.LORA_XAVIER, bottleneck.Init.XAVIER, bottleneck.Init.ZERO] = Field(
        default=bottleneck.Init.LORA_XAVIER, description="how it starts: lora_xavier, xavier or zero"
    )

    @property
    def starts_as_identity(self) -> bool:
        return self.start is not bottleneck.Init.XAVIER

    def shapes(self, arch: Architecture) -> Shapes:
        return bottleneck.shapes(_sublayers(arch), arch.width, self.rank)

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        names, width = _sublayers(vit.arch), vit.arch.width
        return bottleneck.init(names, width, self.rank, self.start, generator)

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return bottleneck.branches(
            tensors,
            _sublayers(vit.arch),
            source=Source.OUTPUT,
            scale=self.scale,
            dropout=self.dropout,
            activation=F.relu,
        )


def _sublayers(arch: Architecture) -> dict[str, str]:
    """Each bottleneck's name and the sublayer it belongs to."""
    return {f"blocks.{i}.adapter": f"blocks.{i}.mlp" for i in range(arch.depth)}
