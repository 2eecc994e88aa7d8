"""One adapter out of several, by a recipe: its method, its tensors, and what should be said of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from torch import Tensor

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm
from petl_vit.errors import InvalidInput
from petl_vit.methods.merge import Merge
from petl_vit.vit import FrozenViT
from training.merges.changes import Folded, places_of
from training.merges.merging import merged, merged_head
from training.merges.recipe import Recipe
from training.merges.storing import Cut, Storing
from training.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merge, not published yet.

    Attributes:
        tensors: The method's and the head's, float32 on the CPU.
        cut: What the largest rank cost, where one was asked for.
    """

    method: Merge
    tensors: dict[str, Tensor]
    cut: Cut | None

    @property
    def training(self) -> dict[str, JsonValue]:
        """For the manifest."""
        if self.cut is None:
            return {}
        cut = self.cut
        return {"rank_error": cut.error, "worst_site": cut.worst, "worst_rank_error": cut.worst_error}


class Merging:
    """Members that can be merged by a recipe.

    Args:
        loader: Of the members' backbone, in float32.

    Raises:
        Unsupported: A member does not fold; names it.
        InvalidInput: The rank is larger than the backbone's linears allow.
    """

    def __init__(self, loader: Loader, members: Sequence[ResolvedTerm], recipe: Recipe) -> None:
        task = members[0].task
        self._vit = loader.vit(task.spec.preprocess.image_size)
        _check_rank(recipe.rank, self._vit)
        adapters = [loader.adapter(term) for term in members]
        self._members = [
            Folded(adapter, self._vit, label=term.full_name)
            for adapter, term in zip(adapters, members, strict=True)
        ]
        self._head = merged_head(loader.base_head(task), [adapter.head for adapter in adapters], recipe)
        self._recipe = recipe

    def run(self, reporter: Reporter) -> Merged:
        """The merge; says what it costs to serve and what the rank cost."""
        recipe = self._recipe
        storing = Storing(vit=self._vit, rank=recipe.rank, products=recipe.kind in ("tsv", "model-stock"))
        with reporter.stage("merging", len(places_of(self._members))) as advance:
            for place, changes in merged(self._members, recipe):
                reporter.status(place)
                storing.add(changes)
                advance(1)
        method = storing.method(recipe, [member.digest for member in self._members])
        tensors = {name: t.float().contiguous() for name, t in (storing.tensors | self._head).items()}
        found = Merged(method=method, tensors=tensors, cut=storing.cut)
        for text in _notes(found, self._vit):
            reporter.note(text)
        return found


def _check_rank(rank: int | None, vit: FrozenViT) -> None:
    if rank is not None and rank > vit.arch.width:
        raise InvalidInput(
            f"no linear of {vit.arch.name} has a change of rank {rank}",
            field="rank",
            remedy=f"use at most {vit.arch.width}, its width, or leave it out",
        )


def _notes(found: Merged, vit: FrozenViT) -> list[str]:
    """What it costs to serve, and what the rank cost."""
    notes, method = [], found.method
    if found.cut is not None:
        cut = found.cut
        notes.append(
            f"rank {method.settings['rank']} leaves out {cut.error:.1%} of the change (Frobenius norm), "
            f"at worst {cut.worst_error:.1%}, at {cut.worst}"
        )
    if method.whole:
        numbers = sum(found.tensors[name].numel() for name in method.whole)
        of = sum(t.numel() for name, t in vit.params.items() if name in vit.arch.shapes)
        remedy = (
            "these are no linears of a block, and have no rank"
            if "rank" in method.settings
            else "--rank 16 keeps products, which run beside the frozen ones"
        )
        notes.append(
            f"{len(method.whole)} parameters are stored whole ({4 * numbers / 1e6:.1f} MB, "
            f"{numbers / of:.0%} of the backbone), so rows of this adapter have products of their own, "
            f"as those of `full`; {remedy}"
        )
    return notes
