"""Soup: a fixed weighted sum of adapters in weight space, stored as one adapter (arXiv 2203.05482).

theta_0 + sum_i w_i (theta_i - theta_0): every member's edits with their deltas times its weight. Member i's
tensors have the prefix `i.`. `corolla adapters soup` builds it from trained adapters; it is never trained.
Parameters: those of its members.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from petl_vit import methods
from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit, scaled
from petl_vit.errors import Unsupported
from petl_vit.methods.method import Method, Tensors
from petl_vit.vit import FrozenViT


class Ingredient(BaseModel):
    """One member: its method, that method's settings, and its share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(gt=0, le=1, description="share of the member's change")
    method: str
    config: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.configured()
        return self

    def configured(self) -> Method:
        """The member's method with its settings."""
        return methods.get(self.method).configure(self.config)


class Soup(Method):
    """A weighted sum of adapters."""

    name: ClassVar[str] = "soup"
    title: ClassVar[str] = "model soup"
    paper: ClassVar[str] = "arXiv 2203.05482"
    foldable: ClassVar[bool] = False  # in general; it folds where all its members do
    trained: ClassVar[bool] = False

    terms: Annotated[tuple[Ingredient, ...], Field(min_length=1, max_length=16, description="its members")]

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        return {
            f"{i}.{name}": shape
            for i, term in enumerate(self.terms)
            for name, shape in term.configured().shapes(arch).items()
        }

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        raise Unsupported(
            "a soup is built from trained adapters and is not trained itself",
            field="method",
            remedy="train its members, then use `corolla adapters soup`",
        )

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [
            scaled(edit, term.weight)
            for i, term in enumerate(self.terms)
            for edit in term.configured().edits(vit, _of(tensors, i))
        ]


def _of(tensors: Mapping[str, Tensor], member: int) -> dict[str, Tensor]:
    """One member's tensors, without their prefix."""
    prefix = f"{member}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
