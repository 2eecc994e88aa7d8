"""BitFit: every bias of the backbone is trained, from its pre-trained value (arXiv 2106.10199).

Tensors are the biases themselves under timm's names, so weight decay acts on them as in the study.
Biases of SigLIP's and PE's attention pooling are not among them: the study has no such backbone, and pooling
stays frozen in every method but full fine-tuning. Where keys have no bias (DINOv3) theirs stays zero.
Parameters: D + M (11 D) + D for M blocks with biases everywhere; ViT-B/16 102,912.
"""

from typing import ClassVar

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Affine, Edit
from petl_vit.methods.method import Method, Tensors, trained
from petl_vit.vit import FrozenViT


class BitFit(Method):
    """Bias tuning."""

    name: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "BitFit"
    paper: ClassVar[str] = "arXiv 2106.10199"
    foldable: ClassVar[bool] = True

    def shapes(self, arch: Architecture) -> Shapes:
        biases = (name for name in arch.shapes if name.endswith(".bias"))
        return {name: arch.shapes[name] for name in biases if not name.startswith("attn_pool.")}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: vit.params[name].clone() for name in self.shapes(vit.arch)}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [
            Affine(site=name.removesuffix(".bias"), shift=trained(vit.arch, name, bias) - vit.params[name])
            for name, bias in tensors.items()
        ]
