"""Houlsby: a trained bottleneck with an inner skip behind attention and MLP (arXiv 1902.00751).

u = Attn(LN1 X); X += DP(u + s (drop(ReLU(u W_d + b_d)) W_u + b_u)); the same for the MLP. Xavier-uniform
W_d and W_u and biases N(0, 1e-6), so it does not start as the identity.
Parameters: 2 M (2 D r + r + D); ViT-B/16 r=8 313,536.
"""

from typing import ClassVar

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


class Houlsby(Method):
    """Bottleneck adapters behind both sublayers."""

    name: ClassVar[str] = "houlsby"
    title: ClassVar[str] = "Houlsby adapter"
    paper: ClassVar[str] = "arXiv 1902.00751"
    foldable: ClassVar[bool] = False
    published_linears: ClassVar[tuple[str, ...]] = bottleneck.LINEARS

    rank: int = Field(default=8, ge=1, le=1024, description="width of the bottleneck")
    scale: float = Field(default=0.1, gt=0, le=100, description="factor on the branch's output")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        return bottleneck.shapes(_sublayers(arch), arch.width, self.rank)

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        names, width = _sublayers(vit.arch), vit.arch.width
        return bottleneck.init(names, width, self.rank, bottleneck.Init.XAVIER, generator)

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
    return bottleneck.sublayers(arch, "adapter")
