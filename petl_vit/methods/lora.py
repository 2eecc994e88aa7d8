"""LoRA: a trained low-rank product beside the fused qkv linear, [Q K V] += drop(Z) A B (arXiv 2106.09685).

As in the study: q, k and v share A, no biases, no alpha/r factor. A is kaiming-uniform (a = sqrt 5), B
zero. Parameters: M r (D + 3D); ViT-B/16 r=8 294,912.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.edits import Edit, LowRank
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.vit import Architecture, FrozenViT, Shapes


class LoRA(Method):
    """Low-rank adaptation of the attention's projections."""

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    paper: ClassVar[str] = "arXiv 2106.09685"
    foldable: ClassVar[bool] = True

    rank: int = Field(default=8, ge=1, le=512, description="rank of the update")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout on the input, in training")

    def shapes(self, arch: Architecture) -> Shapes:
        width = arch.width
        shapes: Shapes = {}
        for block in range(arch.depth):
            shapes[f"blocks.{block}.attn.qkv.lora_a"] = (width, self.rank)
            shapes[f"blocks.{block}.attn.qkv.lora_b"] = (self.rank, 3 * width)
        return shapes

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        bound = 1 / math.sqrt(vit.arch.width)
        return {
            name: uniform(shape, bound, generator) if name.endswith("lora_a") else torch.zeros(shape)
            for name, shape in self.shapes(vit.arch).items()
        }

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        sites = [f"blocks.{block}.attn.qkv" for block in range(vit.arch.depth)]
        return [
            LowRank(
                site=site,
                a=tensors[f"{site}.lora_a"],
                b=tensors[f"{site}.lora_b"],
                dropout=self.dropout,
            )
            for site in sites
        ]
