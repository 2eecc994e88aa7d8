"""LayerNorm tuning: weight and bias of every LayerNorm, from their pre-trained values (arXiv 2312.11420).

Tensors are the parameters themselves under timm's names. The norm inside SigLIP's attention pooling stays
frozen, as that pooling does in every method but full fine-tuning.
Parameters: 2 D (2 M + 1), or 2 M + 2 norms with a pre-norm; ViT-B/16 38,400.
"""

from typing import ClassVar

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit, NormDelta
from petl_vit.methods.method import Method, Tensors
from petl_vit.vit import FrozenViT


class LayerNorm(Method):
    """Every LayerNorm."""

    name: ClassVar[str] = "layernorm"
    title: ClassVar[str] = "LayerNorm tuning"
    paper: ClassVar[str] = "arXiv 2312.11420"
    foldable: ClassVar[bool] = True

    def shapes(self, arch: Architecture) -> Shapes:
        return {f"{norm}.{kind}": (arch.width,) for norm in arch.norms for kind in ("weight", "bias")}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: vit.params[name].clone() for name in self.shapes(vit.arch)}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return norm_deltas(vit, tensors)


def norm_deltas(vit: FrozenViT, tensors: Tensors) -> list[Edit]:
    """The change of every LayerNorm whose new weight and bias are among the tensors."""
    return [
        NormDelta(
            site=norm,
            weight=tensors[f"{norm}.weight"] - vit.params[f"{norm}.weight"],
            bias=tensors[f"{norm}.bias"] - vit.params[f"{norm}.bias"],
            eps=vit.arch.eps,
        )
        for norm in vit.arch.norms
    ]
