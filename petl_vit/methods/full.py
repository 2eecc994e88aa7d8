"""Full fine-tuning: every parameter of the backbone is trained, from its pre-trained value.

Parameters: all of the backbone; ViT-B/16 85,798,656.
"""

from typing import ClassVar

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Dense, Edit
from petl_vit.methods.method import Method, Tensors, trained
from petl_vit.vit import FrozenViT


class Full(Method):
    """The yardstick that PETL is measured against."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "full fine-tuning"
    paper: ClassVar[str] = "-"
    foldable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-5
    faster_if_short: ClassVar[bool] = False

    def shapes(self, arch: Architecture) -> Shapes:
        return dict(arch.shapes)

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: vit.params[name].clone() for name in self.shapes(vit.arch)}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [Dense(name=name, tensor=trained(vit.arch, name, tensor)) for name, tensor in tensors.items()]
