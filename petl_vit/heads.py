"""Classification heads: from pooled features to logits, of any number of classes.

The kinds (a linear layer, CLIP's projection with a classifier) are told apart by the names of their tensors.
Each row of a batch has its model's head, so kinds and widths may differ within a batch; a task and its
adapters share one kind.

Shapes: B rows, D width, E width of the space that images and texts share, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.architecture import check_tensors
from petl_vit.errors import Corrupt

_PREFIX = "head."
_PROJECTION = "head.projection"


class Head(Protocol):
    """A head of any kind."""

    title: ClassVar[str]

    @property
    def classes(self) -> int:
        """C."""

    def tensors(self) -> dict[str, Tensor]:
        """All its tensors, by their names in files; every one of them is trained."""

    def replaced(self, tensors: Mapping[str, Tensor]) -> Self:
        """A head of this kind with other tensors under the same names."""

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""

    def redrawn(self, generator: torch.Generator) -> Self:
        """A head of this kind and these shapes with a random classifier, on the CPU."""

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Self:
        """The same head on another device or in another dtype; tensors that need no change are shared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearHead:
    """logits = f W^T + b, with W [C, D] and b [C]."""

    title: ClassVar[str] = "linear"

    weight: Tensor
    bias: Tensor

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], *, classes: int, width: int) -> Self:
        """The head among named tensors, `head.weight` and `head.bias`.

        Raises:
            Corrupt: It is missing, or of other classes or another width.
        """
        head = _of_head(tensors)
        shapes = {"head.weight": (classes, width), "head.bias": (classes,)}
        check_tensors(head, shapes, what="head")
        return cls(weight=head["head.weight"], bias=head["head.bias"])

    @classmethod
    def init(cls, classes: int, width: int, generator: torch.Generator) -> Self:
        """PyTorch's default for a linear layer: uniform within 1/sqrt(D)."""
        weight, bias = _uniform(classes, width, generator)
        return cls(weight=weight, bias=bias)

    @property
    def classes(self) -> int:
        return len(self.weight)

    def tensors(self) -> dict[str, Tensor]:
        return {"head.weight": self.weight, "head.bias": self.bias}

    def replaced(self, tensors: Mapping[str, Tensor]) -> Self:
        return type(self)(weight=tensors["head.weight"], bias=tensors["head.bias"])

    def logits(self, features: Tensor) -> Tensor:
        return F.linear(features.to(self.weight.dtype), self.weight, self.bias)

    def redrawn(self, generator: torch.Generator) -> Self:
        classes, width = self.weight.shape
        return self.init(classes, width, generator)

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Self:
        return self.replaced({name: t.to(device, dtype) for name, t in self.tensors().items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipHead:
    """logits = normalise(f P) W^T + b, with P [D, E], W [C, E] and b [C].

    Zero-shot, W is the normalised text embeddings times exp(logit_scale), and b is 0. All three are trained,
    as in the study, so after training neither the rows of W nor the scale are CLIP's.
    """

    title: ClassVar[str] = "CLIP"

    projection: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], *, classes: int, width: int) -> Self:
        """The head among named tensors, `head.projection`, `head.weight` and `head.bias`.

        Raises:
            Corrupt: It is missing, its tensors do not fit each other, or it is of other classes or another
                width.
        """
        head = _of_head(tensors)
        shared = head[_PROJECTION].shape[-1] if _PROJECTION in head and head[_PROJECTION].dim() else 0
        shapes = {
            _PROJECTION: (width, shared),
            "head.weight": (classes, shared),
            "head.bias": (classes,),
        }
        check_tensors(head, shapes, what="head")
        return cls(projection=head[_PROJECTION], weight=head["head.weight"], bias=head["head.bias"])

    @property
    def classes(self) -> int:
        return len(self.weight)

    def tensors(self) -> dict[str, Tensor]:
        return {_PROJECTION: self.projection, "head.weight": self.weight, "head.bias": self.bias}

    def replaced(self, tensors: Mapping[str, Tensor]) -> Self:
        return type(self)(
            projection=tensors[_PROJECTION], weight=tensors["head.weight"], bias=tensors["head.bias"]
        )

    def logits(self, features: Tensor) -> Tensor:
        shared = features.to(self.projection.dtype) @ self.projection
        return F.linear(F.normalize(shared, dim=-1), self.weight, self.bias)

    def redrawn(self, generator: torch.Generator) -> Self:
        """CLIP's projection, and a classifier drawn as a linear layer's."""
        classes, shared = self.weight.shape
        weight, bias = _uniform(classes, shared, generator)
        return type(self)(projection=self.projection.cpu(), weight=weight, bias=bias)

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Self:
        return self.replaced({name: t.to(device, dtype) for name, t in self.tensors().items()})


def load(tensors: Mapping[str, Tensor], *, classes: int, width: int) -> Head:
    """The head among named tensors, of the kind that their names say.

    Raises:
        Corrupt: It is missing, or of other classes or another width.
    """
    if _PROJECTION in tensors:
        return ClipHead.load(tensors, classes=classes, width=width)
    return LinearHead.load(tensors, classes=classes, width=width)


def load_like(base: Head, tensors: Mapping[str, Tensor]) -> Head:
    """The head among named tensors, of the kind and the shapes of a task's base head.

    Raises:
        Corrupt: It is missing, of another kind or of other shapes.
    """
    named = _of_head(tensors)
    kind = ClipHead if _PROJECTION in named else LinearHead
    if named and kind is not type(base):
        raise Corrupt(
            f"its head is of the {kind.title} kind, the task's base head of the {base.title} kind",
            field="tensors",
            remedy="it was made for another task; train or import it again",
        )
    check_tensors(named, {name: tuple(t.shape) for name, t in base.tensors().items()}, what="head")
    return base.replaced(named)


def interpolate(base: Head, terms: Sequence[tuple[Head, float]]) -> Head:
    """H_0 + sum alpha_i (H_i - H_0), tensor by tensor, of heads of one kind and shape.

    One head at alpha 1 is that head itself, and at alpha 0 exactly the base head.
    """
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]
    mixed = {}
    for name, frozen in base.tensors().items():
        changes = (alpha * (head.tensors()[name] - frozen) for head, alpha in terms)
        mixed[name] = sum(changes, start=frozen)
    return base.replaced(mixed)


def _of_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head's tensors among those of an adapter or a task."""
    return {name: t for name, t in tensors.items() if name.startswith(_PREFIX)}


def _uniform(classes: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight [C, width] and bias [C], uniform within 1/sqrt(width)."""
    bound = width**-0.5
    weight = torch.empty(classes, width).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(classes).uniform_(-bound, bound, generator=generator)
