"""AdaptFormer: a trained bottleneck beside every MLP, reading the residual stream (arXiv 2205.13535).

X += DP(MLP(LN2 X)) + DP'(s (drop(ReLU(X W_d + b_d)) W_u + b_u)): before LN2, no inner skip, a
separate drop path mask. With layer_scale the branch is multiplied by the MLP's LayerScale, as in the study's
code: DP'(LS(s (...))). W_d is kaiming-uniform (a = sqrt 5), the rest zero.
Parameters: M (2 D r + r + D); ViT-B/16 r=32 599,424.
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


class AdaptFormer(Method):
    """Parallel bottleneck adapters."""

    name: ClassVar[str] = "adaptformer"
    title: ClassVar[str] = "AdaptFormer"
    paper: ClassVar[str] = "arXiv 2205.13535"
    foldable: ClassVar[bool] = False
    published_linears: ClassVar[tuple[str, ...]] = bottleneck.LINEARS

    rank: int = Field(default=32, ge=1, le=1024, description="width of the bottleneck")
    scale: float = Field(default=0.1, gt=0, le=100, description="factor on the branch's output")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the bottleneck, in training")
    layer_scale: bool = Field(default=False, description=bottleneck.LAYER_SCALE)

    def shapes(self, arch: Architecture) -> Shapes:
        return bottleneck.shapes(_sublayers(arch), arch.width, self.rank)

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        names, width = _sublayers(vit.arch), vit.arch.width
        return bottleneck.init(names, width, self.rank, bottleneck.Init.LORA_KAIMING, generator)

    def notes(self, arch: Architecture, *, published: bool = False) -> list[str]:
        return bottleneck.notes(arch, layer_scale=self.layer_scale)

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return bottleneck.branches(
            tensors,
            _sublayers(vit.arch),
            source=Source.STREAM,
            scale=self.scale,
            dropout=self.dropout,
            activation=F.relu,
            layer_scale=vit if self.layer_scale else None,
        )


def _sublayers(arch: Architecture) -> dict[str, str]:
    """Each bottleneck's name and the sublayer it belongs to."""
    return {f"blocks.{i}.adapter": f"blocks.{i}.mlp" for i in range(arch.depth)}
