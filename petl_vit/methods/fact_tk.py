"""FacT-TK: one factorised change for all blocks' linears, cores from a Tucker tensor (arXiv 2212.03145).

As FacT-TT, with the core of unit j being S_j = sum_k C[:, :, k] P[k, j]; block l uses columns 12 l to 12 l
+ 11 (q, k, v, o, four chunks of fc1, four of fc2). U as a linear layer's default, V zero, C and P xavier-
uniform.
Parameters: 2 D r + r^3 + 12 M r; ViT-B/16 r=16 30,976.
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


class FacTTK(Method):
    """Tucker factors."""

    name: ClassVar[str] = "fact_tk"
    title: ClassVar[str] = "FacT-TK"
    paper: ClassVar[str] = "arXiv 2212.03145"
    foldable: ClassVar[bool] = True
    published_linears: ClassVar[tuple[str, ...]] = ("u", "v")

    rank: int = Field(default=16, ge=1, le=512, description="rank of the factors")
    scale: float = Field(default=0.1, gt=0, le=1000, description="factor on the change")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")

    def shapes(self, arch: Architecture) -> Shapes:
        rank = self.rank
        cores: Shapes = {"c": (rank, rank, rank), "p": (rank, fact.UNITS * arch.depth)}
        return fact.shared_shapes(arch, rank) | cores

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        rank, units = self.rank, fact.UNITS * vit.arch.depth
        return fact.shared_init(vit.arch, rank, generator) | {
            "c": uniform((rank, rank, rank), math.sqrt(3) / rank, generator),
            "p": uniform((rank, units), math.sqrt(6 / (rank + units)), generator),
        }

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        cores = torch.einsum("xyk,kj->jxy", tensors["c"], tensors["p"])
        per_block = cores.unflatten(0, (vit.arch.depth, fact.UNITS))
        u, v = tensors["u"], tensors["v"]
        return fact.edits(vit, u, v, per_block, scale=self.scale, dropout=self.dropout)
