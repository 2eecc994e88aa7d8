"""Merges members' changes place by place, and their heads."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from petl_vit.heads import Head
from training.merges.changes import Changes, Named, places_of
from training.merges.dare import Dropped
from training.merges.recipe import Recipe
from training.merges.singular import tsv
from training.merges.stock import model_stock
from training.merges.ties import threshold, ties

Merge = Callable[[Sequence[Tensor]], Tensor]


def merged(members: Sequence[Changes], recipe: Recipe) -> Iterator[tuple[str, Named]]:
    """The merged change of every parameter that a member changes, place by place.

    A member that leaves a parameter alone has a change of zero there. The members' order does not matter.
    """
    members = sorted(members, key=lambda member: member.digest)
    if recipe.drop_rate:
        members = [Dropped(member, recipe.drop_rate, recipe.seed) for member in members]
    merge = _merge(members, recipe)
    for place in places_of(members):
        found = [member.at(place) for member in members]
        shapes = {name: change.shape for changes in found for name, change in changes.items()}
        yield (
            place,
            {
                name: merge([changes.get(name, torch.zeros(shape).double()) for changes in found])
                for name, shape in sorted(shapes.items())
            },
        )


def merged_head(base: Head, heads: Sequence[Head], recipe: Recipe) -> Named:
    """The merged head's tensors, float64: the mean of the heads; of Model Stock, its rule for each tensor.

    The papers of the other kinds keep a head for each task, and say nothing of merging them.
    """
    merge = model_stock if recipe.kind == "model-stock" else _mean
    tensors = {}
    for name, frozen in base.tensors().items():
        start = frozen.detach().cpu().double()
        changes = [head.tensors()[name].detach().cpu().double() - start for head in heads]
        tensors[name] = start + merge(changes)
    return tensors


def _merge(members: Sequence[Changes], recipe: Recipe) -> Merge:
    if recipe.kind == "ties":
        thresholds = [threshold(member, recipe.density) for member in members]
        return lambda changes: ties(changes, thresholds)
    return {"dare": _mean, "tsv": tsv, "model-stock": model_stock}[recipe.kind]


def _mean(changes: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(changes)).mean(dim=0)
