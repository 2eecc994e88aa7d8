"""Imported: an adapter of another library as the edits that it consists of, stored as they are.

The config lists the edits, each with its site; edit i's tensors have the prefix `i.`. `corolla adapters
import` builds it, and `model_store.interchange` computes the tensors; it is never trained. Parameters: those
of the edits.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from petl_vit import edits
from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.methods.merge import PATCHES
from petl_vit.methods.method import Method, Tensors, linear_sites
from petl_vit.vit import FrozenViT


class _Spec(BaseModel):
    """What an edit has besides its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str

    def _matrix(self, arch: Architecture) -> tuple[int, int]:
        """The outputs and inputs of a linear, of a block or of attention pooling."""
        shape = arch.shapes.get(f"{self.site}.weight", ())
        if len(shape) != 2:
            raise _wrong(f"{arch.name} has no linear {self.site!r}")
        return shape[0], shape[1]

    def _at_site(self, arch: Architecture) -> tuple[int, int]:
        """The same of a linear that is a site of the forward."""
        if self.site not in linear_sites(arch):
            raise _wrong(f"{arch.name} has no site of a linear {self.site!r}")
        return self._matrix(arch)


class AffineSpec(_Spec):
    """An `Affine`, at a linear, a LayerNorm or the patch embedding."""

    edit: Literal["affine"] = "affine"
    scale: bool = False
    shift: bool = True

    def shapes(self, arch: Architecture) -> Shapes:
        elsewhere = (*arch.norms, PATCHES)
        width = arch.width if self.site in elsewhere else self._at_site(arch)[0]
        return {name: (width,) for name, there in (("scale", self.scale), ("shift", self.shift)) if there}

    def built(self, tensors: Tensors, arch: Architecture) -> Edit:
        return edits.Affine(site=self.site, scale=tensors.get("scale"), shift=tensors.get("shift"))


class NormSpec(_Spec):
    """A `NormDelta`."""

    edit: Literal["norm"] = "norm"

    def shapes(self, arch: Architecture) -> Shapes:
        if self.site not in arch.norms:
            raise _wrong(f"{arch.name} has no LayerNorm {self.site!r}")
        return {"weight": (arch.width,), "bias": (arch.width,)}

    def built(self, tensors: Tensors, arch: Architecture) -> Edit:
        return edits.NormDelta(site=self.site, weight=tensors["weight"], bias=tensors["bias"], eps=arch.eps)


class LowRankSpec(_Spec):
    """A `LowRank` whose bottleneck has `parts` parts of `rank` columns."""

    edit: Literal["low_rank"] = "low_rank"
    rank: int = Field(ge=1)
    parts: int = Field(default=1, ge=1)

    def shapes(self, arch: Architecture) -> Shapes:
        out, into = self._at_site(arch)
        if out % self.parts:
            raise _wrong(f"{self.site} has {out} outputs, which are no {self.parts} equal parts")
        return {"a": (into, self.parts * self.rank), "b": (self.rank, out // self.parts)}

    def built(self, tensors: Tensors, arch: Architecture) -> Edit:
        return edits.LowRank(site=self.site, a=tensors["a"], b=tensors["b"])


class InputSpec(_Spec):
    """An `Input`, diagonal or of blocks of a size, of all outputs or a run of them."""

    edit: Literal["input"] = "input"
    block: int | None = Field(default=None, ge=1)
    scale: bool = False
    outputs: tuple[int, int] | None = None

    def shapes(self, arch: Architecture) -> Shapes:
        out, into = self._at_site(arch)
        first, last = self.outputs or (0, out)
        if not 0 <= first < last <= out:
            raise _wrong(f"{self.site} has {out} outputs, and {first} to {last} are no run of them")
        if self.block is not None and into % self.block:
            raise _wrong(f"{self.site} takes {into} numbers, which are no blocks of {self.block}")
        shape: Shapes = (
            {"diagonal": (into,)}
            if self.block is None
            else {"blocks": (into // self.block, self.block, self.block)}
        )
        return shape | ({"scale": (last - first,)} if self.scale else {})

    def built(self, tensors: Tensors, arch: Architecture) -> Edit:
        return edits.Input(
            site=self.site,
            diagonal=tensors.get("diagonal"),
            blocks=tensors.get("blocks"),
            scale=tensors.get("scale"),
            outputs=self.outputs,
        )


class DenseSpec(_Spec):
    """A `Dense`: the site's weight replaced."""

    edit: Literal["dense"] = "dense"

    def shapes(self, arch: Architecture) -> Shapes:
        return {"weight": self._matrix(arch)}

    def built(self, tensors: Tensors, arch: Architecture) -> Edit:
        return edits.Dense(name=f"{self.site}.weight", tensor=tensors["weight"])


def _wrong(problem: str) -> InvalidInput:
    return InvalidInput(problem, field="imported.edits", remedy="import it under a task on its own backbone")


Spec = Annotated[AffineSpec | NormSpec | LowRankSpec | InputSpec | DenseSpec, Field(discriminator="edit")]


class Imported(Method):
    """The edits of an adapter of another library."""

    name: ClassVar[str] = "imported"
    title: ClassVar[str] = "imported edits"
    paper: ClassVar[str] = "-"
    foldable: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    source: str = Field(default="", description="the type of the adapter that it was")
    parts: tuple[Spec, ...] = Field(min_length=1, description="its edits, in the order of their tensors")

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        return {
            f"{i}.{name}": shape
            for i, spec in enumerate(self.parts)
            for name, shape in spec.shapes(arch).items()
        }

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        raise Unsupported(
            "imported edits come from another library and are not trained",
            field="method",
            remedy="train it there, then use `corolla adapters import`",
        )

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        of_each: list[dict[str, Any]] = [{} for _ in self.parts]
        for name, tensor in tensors.items():
            number, _, field = name.partition(".")
            of_each[int(number)][field] = tensor
        return [spec.built(own, vit.arch) for spec, own in zip(self.parts, of_each, strict=True)]
