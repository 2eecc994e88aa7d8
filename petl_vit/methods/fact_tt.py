"""FacT-TT: one factorised change for all linears of all blocks, a free core for each (arXiv 2212.03145).

U [D, r] and V [r, D] are shared by all blocks; each of a block's 12 D x D units has a core S [r, r], and its
change is s U S V. U and S start as linear layers' defaults, V zero.
Parameters: 2 D r + 12 M r^2; ViT-B/16 r=8 21,504.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit
from petl_vit.methods import fact
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.vit import FrozenViT


class FacTTT(Method):
    """Tensor-train factors."""

    name: ClassVar[str] = "fact_tt"
    title: ClassVar[str] = "FacT-TT"
    paper: ClassVar[str] = "arXiv 2212.03145"
    foldable: ClassVar[bool] = True
    published_linears: ClassVar[tuple[str, ...]] = ("u", "v", "s")

    rank: int = Field(default=8, ge=1, le=512, description="rank of the factors")
    scale: float = Field(default=0.1, gt=0, le=1000, description="factor on the change")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")

    def shapes(self, arch: Architecture) -> Shapes:
        cores = (arch.depth, fact.UNITS, self.rank, self.rank)
        return fact.shared_shapes(arch, self.rank) | {"s": cores}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (vit.arch.depth, fact.UNITS, self.rank, self.rank)
        cores = uniform(shape, 1 / math.sqrt(self.rank), generator)
        cores[:, 8:] /= 2  # fc2 is one layer with four times the inputs
        return fact.shared_init(vit.arch, self.rank, generator) | {"s": cores}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        u, v = tensors["u"], tensors["v"]
        return fact.edits(vit, u, v, tensors["s"], scale=self.scale, dropout=self.dropout)
