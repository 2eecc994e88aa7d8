"""Classification heads: from pooled features to logits, of any number of classes.

Shapes: B rows, D width, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.vit import check_tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearHead:
    """logits = f W^T + b, with W [C, D] and b [C]."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], *, classes: int, width: int) -> Self:
        """The head among named tensors, `head.weight` and `head.bias`.

        Raises:
            Corrupt: It is missing, or made for other classes or another width.
        """
        head = {name: t for name, t in tensors.items() if name.startswith("head.")}
        shapes = {"head.weight": (classes, width), "head.bias": (classes,)}
        check_tensors(head, shapes, what="head")
        return cls(weight=head["head.weight"], bias=head["head.bias"])

    @classmethod
    def init(cls, classes: int, width: int, generator: torch.Generator) -> Self:
        """PyTorch's default for a linear layer: uniform within 1/sqrt(D)."""
        bound = width**-0.5
        return cls(
            weight=torch.empty(classes, width).uniform_(-bound, bound, generator=generator),
            bias=torch.empty(classes).uniform_(-bound, bound, generator=generator),
        )

    def tensors(self) -> dict[str, Tensor]:
        return {"head.weight": self.weight, "head.bias": self.bias}

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return F.linear(features, self.weight, self.bias)

    def to(self, *, device: torch.device, dtype: torch.dtype) -> "LinearHead":
        return LinearHead(weight=self.weight.to(device, dtype), bias=self.bias.to(device, dtype))
