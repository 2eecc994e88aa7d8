"""LoRA: a trained low-rank product beside the fused qkv linear, [Q K V] += drop(Z) A B (arXiv 2106.09685).

As in the study: q, k and v share A, no biases, no alpha/r factor. A is kaiming-uniform (a = sqrt 5), B
zero; the study's code says so too, but its runs started both from N(0, 0.02), which is --init published.
Other linears of the blocks can be targets too. Parameters: M r (D + 3D) for qkv; ViT-B/16 r=8 294,912.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit, LowRank
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.methods.targets import Targets, sites
from petl_vit.vit import FrozenViT


class LoRA(Method):
    """Low-rank adaptation of the attention's projections."""

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    paper: ClassVar[str] = "arXiv 2106.09685"
    foldable: ClassVar[bool] = True
    published_linears: ClassVar[tuple[str, ...]] = ("lora_a", "lora_b")

    rank: int = Field(default=8, ge=1, le=512, description="rank of the update")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout on the input, in training")
    targets: Targets = ("qkv",)

    def shapes(self, arch: Architecture) -> Shapes:
        shapes: Shapes = {}
        for site, (into, out) in sites(arch, self.targets).items():
            shapes[f"{site}.lora_a"] = (into, self.rank)
            shapes[f"{site}.lora_b"] = (self.rank, out)
        return shapes

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: uniform(shape, shape[0] ** -0.5, generator)
            if name.endswith("lora_a")
            else torch.zeros(shape)
            for name, shape in self.shapes(vit.arch).items()
        }

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [
            LowRank(
                site=site,
                a=tensors[f"{site}.lora_a"],
                b=tensors[f"{site}.lora_b"],
                dropout=self.dropout,
            )
            for site in sites(vit.arch, self.targets)
        ]
