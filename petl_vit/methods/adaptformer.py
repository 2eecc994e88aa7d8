"""AdaptFormer: a trained bottleneck beside every MLP, reading the residual stream (arXiv 2205.13535).

X += DP(MLP(LN2 X)) + DP'(s (drop(ReLU(X W_d + b_d)) W_u + b_u)): before LN2, no inner skip, a drop
path mask of its own. W_d is kaiming-uniform (a = sqrt 5), the rest zero.
Parameters: M (2 D r + r + D); ViT-B/16 r=32 599,424.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from petl_vit.edits import Branch, Edit
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.vit import Architecture, FrozenViT, Shapes


class AdaptFormer(Method):
    """Parallel bottleneck adapters."""

    name: ClassVar[str] = "adaptformer"
    title: ClassVar[str] = "AdaptFormer"
    paper: ClassVar[str] = "arXiv 2205.13535"
    foldable: ClassVar[bool] = False

    rank: int = Field(default=32, ge=1, le=1024, description="width of the bottleneck")
    scale: float = Field(default=0.1, gt=0, le=100, description="factor on the branch's output")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")

    def shapes(self, arch: Architecture) -> Shapes:
        width = arch.width
        shapes: Shapes = {}
        for block in range(arch.depth):
            shapes[f"blocks.{block}.adapter.down.weight"] = (width, self.rank)
            shapes[f"blocks.{block}.adapter.down.bias"] = (self.rank,)
            shapes[f"blocks.{block}.adapter.up.weight"] = (self.rank, width)
            shapes[f"blocks.{block}.adapter.up.bias"] = (width,)
        return shapes

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        bound = 1 / math.sqrt(vit.arch.width)
        return {
            name: uniform(shape, bound, generator) if name.endswith("down.weight") else torch.zeros(shape)
            for name, shape in self.shapes(vit.arch).items()
        }

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [
            Branch(
                sublayer=f"blocks.{block}.mlp",
                down=tensors[f"blocks.{block}.adapter.down.weight"],
                down_bias=tensors[f"blocks.{block}.adapter.down.bias"],
                up=tensors[f"blocks.{block}.adapter.up.weight"],
                up_bias=tensors[f"blocks.{block}.adapter.up.bias"],
                scale=self.scale,
                activation=F.relu,
                dropout=self.dropout,
            )
            for block in range(vit.arch.depth)
        ]
