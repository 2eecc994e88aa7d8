"""RepAdapter: a trained linear bottleneck in front of attention and MLP (arXiv 2302.08106).

R(z) = z + s (drop(z A + a0) B + b0) on the LN output; X += DP(Attn(R1(LN1 X))), X += DP(MLP(R2(LN2 X))). B
acts in two groups: each half of the output sees half of the bottleneck. In front of a frozen linear (W, b)
it is the low-rank change W += s A B W, b += s (a0 B + b0) W. A xavier-uniform, the rest zero.
Parameters: 2 M (D r + r + D r / 2 + D); ViT-B/16 r=8 239,808.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit, LowRank
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.products import dense
from petl_vit.vit import FrozenViT


class RepAdapter(Method):
    """Linear adapters in front of the sublayers."""

    name: ClassVar[str] = "repadapter"
    title: ClassVar[str] = "RepAdapter"
    paper: ClassVar[str] = "arXiv 2302.08106"
    foldable: ClassVar[bool] = True

    rank: int = Field(default=8, ge=2, le=1024, multiple_of=2, description="width of the bottleneck, even")
    scale: float = Field(default=1.0, gt=0, le=100, description="factor on the adapter's output")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")

    def shapes(self, arch: Architecture) -> Shapes:
        width = arch.width
        shapes: Shapes = {}
        for prefix in _sites(arch):
            shapes[f"{prefix}.a"] = (width, self.rank)
            shapes[f"{prefix}.a0"] = (self.rank,)
            shapes[f"{prefix}.b"] = (2, self.rank // 2, width // 2)
            shapes[f"{prefix}.b0"] = (width,)
        return shapes

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        tensors = {name: torch.zeros(shape) for name, shape in self.shapes(vit.arch).items()}
        bound = math.sqrt(6 / (vit.arch.width + self.rank))
        for prefix in _sites(vit.arch):
            tensors[f"{prefix}.a"] = uniform((vit.arch.width, self.rank), bound, generator)
        return tensors

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        edits: list[Edit] = []
        for prefix, site in _sites(vit.arch).items():
            weight = dense(vit.params[f"{site}.weight"]).T
            edits.append(
                LowRank(
                    site=site,
                    a=tensors[f"{prefix}.a"],
                    a0=tensors[f"{prefix}.a0"],
                    b=(self.scale * torch.block_diag(*tensors[f"{prefix}.b"])) @ weight,
                    shift=(self.scale * tensors[f"{prefix}.b0"]) @ weight,
                    bottleneck_dropout=self.dropout,
                )
            )
        return edits


def _sites(arch: Architecture) -> dict[str, str]:
    """Each adapter's name and the linear it stands in front of."""
    parts = {"attn_adapter": "attn.qkv", "mlp_adapter": "mlp.fc1"}
    return {
        f"blocks.{i}.{name}": f"blocks.{i}.{site}" for i in range(arch.depth) for name, site in parts.items()
    }
