"""Merge: adapters of one task merged into one weight change by TIES, DARE, TSV or Model Stock.

theta_0 + dtheta, with dtheta stored once, not member by member. At a linear it is a low-rank product where it
is or was made one, else the whole weight; biases and LayerNorms are vectors. Without whole weights it runs in
a batch like LoRA with SSF, with them like full tuning. `corolla adapters soup` builds it from trained
adapters; it is never trained. Sources and equations: docs/merges.md. Parameters: what is stored.
"""

from collections.abc import Container, Iterable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Affine, Dense, Edit, LowRank, NormDelta
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.methods.method import Method, Tensors, linear_sites
from petl_vit.vit import FrozenViT

PATCHES = "patch_embed.proj"


class Merge(Method):
    """A weight change that several adapters were merged into."""

    name: ClassVar[str] = "merge"
    title: ClassVar[str] = "merge of adapters"
    paper: ClassVar[str] = "arXiv 2306.01708, 2311.03099, 2412.00081, 2403.19522"
    foldable: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    kind: Literal["ties", "dare", "tsv", "model-stock"]
    members: Annotated[tuple[str, ...], Field(min_length=2, description="their digests, sorted")]
    settings: dict[str, int | float] = Field(default={}, description="of the kind")
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="linears whose change is a product, with its rank"
    )
    scaled: tuple[str, ...] = Field(default=(), description="sites whose outputs have a scale")
    shifted: tuple[str, ...] = Field(default=(), description="sites whose outputs have a shift")
    norms: tuple[str, ...] = Field(default=(), description="norms whose weight and bias change")
    whole: tuple[str, ...] = Field(default=(), description="parameters that are replaced")

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        inputs, outputs = widths(arch)
        _check_known(self.ranks, inputs)
        _check_known((*self.scaled, *self.shifted), outputs)
        _check_known(self.norms, arch.norms)
        _check_known(self.whole, arch.shapes)
        shapes: Shapes = {f"{site}.a": (inputs[site], rank) for site, rank in self.ranks.items()}
        shapes |= {f"{site}.b": (rank, outputs[site]) for site, rank in self.ranks.items()}
        shapes |= {f"{site}.scale": (outputs[site],) for site in self.scaled}
        shapes |= {f"{site}.shift": (outputs[site],) for site in self.shifted}
        shapes |= {f"{norm}.{change}": (arch.width,) for norm in self.norms for change in ("dw", "db")}
        return shapes | {name: arch.shapes[name] for name in self.whole}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        raise Unsupported(
            "a merge is built from trained adapters and is not trained itself",
            field="method",
            remedy="train its members, then use `corolla adapters soup --kind ties`",
        )

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        products: list[Edit] = [
            LowRank(site=site, a=tensors[f"{site}.a"], b=tensors[f"{site}.b"]) for site in self.ranks
        ]
        affine: list[Edit] = [
            Affine(site=site, scale=tensors.get(f"{site}.scale"), shift=tensors.get(f"{site}.shift"))
            for site in sorted({*self.scaled, *self.shifted})
        ]
        norms: list[Edit] = [
            NormDelta(site=n, weight=tensors[f"{n}.dw"], bias=tensors[f"{n}.db"], eps=vit.arch.eps)
            for n in self.norms
        ]
        return [*products, *affine, *norms, *(Dense(name=n, tensor=tensors[n]) for n in self.whole)]


def widths(arch: Architecture) -> tuple[dict[str, int], dict[str, int]]:
    """The input widths of the blocks' linears, and the output widths of these and the patch embedding."""
    outputs = linear_sites(arch)
    inputs = {site: arch.hidden if site.endswith(".fc2") else arch.width for site in outputs}
    return inputs, outputs | {PATCHES: arch.width}


def _check_known(names: Iterable[str], known: Container[str]) -> None:
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"there is no {name}", field="merge", remedy="it was made for another backbone"
            )
