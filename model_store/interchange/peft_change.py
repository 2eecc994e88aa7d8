"""What an adapter of PEFT changes at one module, in float64, whatever its type calls it.

The readers of the types (`peft_<family>`) make these of a module's tensors; `peft_edits` makes our edits of
them. All changes of a module add up, and each is a change of its weight W [out, in] and bias.

Shapes: in and out of the module, which may be a block of rows of one of our linears; r columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_store.interchange.peft_names import WEIGHTS, Site
from petl_vit.errors import Corrupt


@dataclass(frozen=True, kw_only=True)
class Product:
    """x a b is added: a [in, k r], b [r, out / k], applied to each of the k parts of x a."""

    a: Tensor
    b: Tensor

    @property
    def parts(self) -> int:
        return self.a.shape[1] // max(1, self.b.shape[0])

    def plain(self) -> "Product":
        """The same with one part: k r columns."""
        if self.parts == 1:
            return self
        return Product(a=self.a, b=torch.block_diag(*[self.b] * self.parts))

    def of_weight(self, weight: Tensor) -> Tensor:
        plain = self.plain()
        return (plain.a @ plain.b).T


@dataclass(frozen=True, kw_only=True)
class Scale:
    """(scale - 1) y + shift is added, y with its bias: vectors [out], or None for 1 and 0."""

    scale: Tensor | None = None
    shift: Tensor | None = None

    def of_weight(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight) if self.scale is None else (self.scale - 1).unsqueeze(1) * weight


@dataclass(frozen=True, kw_only=True)
class Turn:
    """scale * W(x (R - 1)) is added, R - 1 being diagonal [in] or blocks [in / b, b, b]; scale [out]."""

    diagonal: Tensor | None = None
    blocks: Tensor | None = None
    scale: Tensor | None = None

    def of_weight(self, weight: Tensor) -> Tensor:
        if self.diagonal is not None:
            change = weight * self.diagonal
        else:
            assert self.blocks is not None
            change = weight @ torch.block_diag(*self.blocks).T
        return change if self.scale is None else change * self.scale.unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """x d^T is added, with a matrix d [out, in] that is no product of narrow ones."""

    delta: Tensor

    def of_weight(self, weight: Tensor) -> Tensor:
        return self.delta


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A LayerNorm's weight and bias change by these."""

    weight: Tensor
    bias: Tensor


Change = Product | Scale | Turn | Whole | Norm


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module that a folder adapts, with its frozen parameters.

    Attributes:
        path: Its name in the file.
        tensors: By kind, in float64.
        weight: [out, in], or [D] of a norm; bias: zeros where there is none.
    """

    path: str
    site: Site
    tensors: dict[str, Tensor]
    weight: Tensor
    bias: Tensor

    @property
    def out(self) -> int:
        return self.weight.shape[0]

    @property
    def into(self) -> int:
        return self.weight.shape[-1]

    def get(self, kind: str, *shape: int | None) -> Tensor:
        """A tensor of a shape, in which None stands for any length.

        Raises:
            Corrupt: It is missing or has another shape.
        """
        tensor = self.tensors.get(kind)
        if tensor is None:
            raise contradiction(f"{self.path} has no {kind}")
        return checked(tensor, f"{self.path}.{kind}", *shape)


def contradiction(problem: str, field: str = WEIGHTS) -> Corrupt:
    """The error for a folder whose config and tensors are not of one adapter of this backbone."""
    remedy = "give the config and the weights of one adapter, over the backbone that it was trained over"
    return Corrupt(problem, field=field, remedy=remedy)


def checked(tensor: Tensor, name: str, *shape: int | None) -> Tensor:
    """A tensor, if it has a shape in which None stands for any length.

    Raises:
        Corrupt: It has not.
    """
    fits = tensor.dim() == len(shape) and all(
        s in (None, t) for s, t in zip(shape, tensor.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise contradiction(f"{name} has shape {tuple(tensor.shape)}, expected ({wanted})")
    return tensor


def product(down: Tensor, up: Tensor, factor: float = 1.0) -> Product:
    """The product of PEFT's A [r, in] and B [out, r]."""
    return Product(a=down.T, b=factor * up.T)
