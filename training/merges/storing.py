"""A merged change as the tensors of the method `merge`: products where the rank is low, else whole weights.

Shapes: W outputs and in inputs of a linear, R rank.
"""

from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from petl_vit.methods.merge import PATCHES, Merge, widths
from petl_vit.vit import FrozenViT
from training.merges.changes import Named, place_of
from training.merges.recipe import Recipe
from training.merges.singular import Singular, singular

_LOW = 2
"""A product is stored in place of a weight where it has at most one part in so many of its numbers."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a largest rank costs: |dW - dW_R| / |dW| in the Frobenius norm, over everything that was cut.

    Attributes:
        worst: The site that lost the largest share of its own change, and `worst_error`, that share.
    """

    error: float
    worst: str
    worst_error: float


@dataclass(kw_only=True)
class Storing:
    """Collects merged changes.

    Args:
        vit: The backbone in float32 or float64.
        products: Whether a change may have a low rank by itself; then it is looked for.
    """

    vit: FrozenViT
    rank: int | None
    products: bool
    tensors: Named = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    scaled: list[str] = field(default_factory=list)
    shifted: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    _norms_of: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, changes: Named) -> None:
        """The changes of one place's parameters, float64."""
        inputs, outputs = widths(self.vit.arch)
        for name, change in changes.items():
            if not bool(change.any()):
                continue
            site, kind = place_of(name), name.rpartition(".")[2]
            if site in self.vit.arch.norms:
                self._norm(site, kind, change)
            elif site in outputs and kind == "bias":
                self._shift(site, change)
            elif site in inputs:
                self._linear(site, name, change)
            elif site == PATCHES and self.rank is not None:
                self._scale(site, name, change)
            else:
                self._whole(name, change)

    def method(self, recipe: Recipe, members: list[str]) -> Merge:
        """The method with its settings; `members` are digests."""
        return Merge(
            kind=recipe.kind,
            members=tuple(sorted(members)),
            settings=recipe.settings,
            ranks=self.ranks,
            scaled=tuple(self.scaled),
            shifted=tuple(self.shifted),
            norms=tuple(self.norms),
            whole=tuple(self.whole),
        )

    @property
    def cut(self) -> Cut | None:
        """What the largest rank cost; None where none was asked for, or nothing was changed."""
        if self.rank is None or not self._norms_of:
            return None
        lost = sqrt(sum(lost for lost, _ in self._norms_of.values()))
        of = sqrt(sum(of for _, of in self._norms_of.values()))
        shares = {site: sqrt(lost / of) for site, (lost, of) in self._norms_of.items()}
        worst = max(shares, key=lambda site: shares[site])
        return Cut(error=lost / of, worst=worst, worst_error=shares[worst])

    def _norm(self, site: str, kind: str, change: Tensor) -> None:
        if site not in self.norms:
            self.norms.append(site)
            zero = change.new_zeros(change.shape)
            self.tensors |= {f"{site}.dw": zero, f"{site}.db": zero}
        self.tensors[f"{site}.{'dw' if kind == 'weight' else 'db'}"] = change

    def _linear(self, site: str, name: str, change: Tensor) -> None:
        if self.rank is None and not self.products:
            return self._whole(name, change)
        found = singular(change)
        kept = found if self.rank is None else found.first(self.rank)
        if self.rank is None and _LOW * len(kept.s) * sum(change.shape) > change.numel():
            return self._whole(name, change)
        self._norms_of[site] = (float(found.s[len(kept.s) :].square().sum()), float(found.s.square().sum()))
        self._product(site, kept)

    def _product(self, site: str, kept: Singular) -> None:
        """x dW^T as (x A) B with A = V sqrt(s) [in, R] and B = sqrt(s) U^T [R, W]."""
        self.ranks[site] = len(kept.s)
        roots = kept.s.sqrt()
        self.tensors |= {f"{site}.a": kept.v * roots, f"{site}.b": (kept.u * roots).T}

    def _scale(self, site: str, name: str, change: Tensor) -> None:
        """The patch embedding takes no product: the nearest scale of each output, exact where SSF made it."""
        frozen = self.vit.params[name].detach().cpu().double().flatten(1)
        rows = change.flatten(1)
        gain = (rows * frozen).sum(dim=1) / frozen.square().sum(dim=1).clamp(min=1e-300)
        lost = rows - gain[:, None] * frozen
        self._norms_of[site] = (float(lost.square().sum()), float(rows.square().sum()))
        self.scaled.append(site)
        self.tensors[f"{site}.scale"] = 1 + gain
        if f"{site}.bias" in self.vit.params:  # the scale is of the whole output, the bias with it
            self._shift(site, -gain * self.vit.params[f"{site}.bias"].detach().cpu().double())

    def _shift(self, site: str, change: Tensor) -> None:
        name = f"{site}.shift"
        if name not in self.tensors:
            self.shifted.append(site)
            self.tensors[name] = torch.zeros_like(change)
        self.tensors[name] = self.tensors[name] + change

    def _whole(self, name: str, change: Tensor) -> None:
        self.whole.append(name)
        self.tensors[name] = self.vit.params[name].detach().cpu().double() + change
