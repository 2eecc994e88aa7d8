"""Linear: nothing but the head is trained.

Parameters (head not counted): 0.
"""

from typing import ClassVar

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit
from petl_vit.methods.method import Method, Tensors
from petl_vit.vit import FrozenViT


class Linear(Method):
    """Linear probing."""

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "linear probing"
    paper: ClassVar[str] = "arXiv 1610.01644"
    foldable: ClassVar[bool] = True
    faster_if_short: ClassVar[bool] = False
    drop_path: ClassVar[float] = 0.0  # the features are then the same in every epoch, and computed once

    def shapes(self, arch: Architecture) -> Shapes:
        return {}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return []
