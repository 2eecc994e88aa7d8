"""Ensembles beside their members, and beside as many seeds of one method.

An ensemble of several methods gains from every member that errs differently, be it another method or only
another seed. Whether the methods matter is told by an ensemble of as many adapters that differ in nothing but
their seed.

Shapes: n images, K members, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb

import numpy as np

from petl_vit.combine import Combine
from training.measure.arrays import Flags, Floats, Labels, Rows
from training.measure.figures import Control, Ensemble
from training.measure.logits import Stacked
from training.measure.paired import difference
from training.measure.scores import Scored, score

MOST_CHOICES = 100
_WORK = 2 * 10**9  # logits that the choices of one control may read
_SEED = 0
_RULES = (Combine.MEAN, Combine.PROB, Combine.VOTE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Members:
    """The members of an ensemble, or the seeds of a method.

    Attributes:
        names: Labels, or texts with versions.
        columns: [n, C] of each.
        weights: [K].
    """

    names: tuple[str, ...]
    columns: tuple[Rows, ...]
    weights: Floats

    @classmethod
    def equal(cls, columns: Mapping[str, Rows]) -> "Members":
        """Members of equal weight, by name."""
        return cls(
            names=tuple(columns), columns=tuple(columns.values()), weights=np.ones(len(columns), dtype=float)
        )

    def some(self, places: Sequence[int]) -> "Members":
        return Members(
            names=tuple(self.names[i] for i in places),
            columns=tuple(self.columns[i] for i in places),
            weights=self.weights[list(places)],
        )

    def scored(self, labels: Labels, rule: Combine = Combine.MEAN) -> Scored:
        return score(Stacked(self.columns), labels, self.weights, rule=rule)


def ensemble(
    on: str,
    route: str,
    members: Members,
    answered: Scored,
    *,
    on_first: Sequence[float],
    seeds: Mapping[str, Members],
) -> Ensemble:
    """An ensemble on one set.

    Args:
        route: Its label.
        answered: What the route says, by its own rule.
        on_first: Accuracies of the members on the first set, in order.
        seeds: Adapters that differ in their seed alone, by method; each of two or more.
    """
    labels = answered.labels
    right = answered.votes == labels[:, None]
    accuracies = right.mean(axis=0)
    best, worst, selected = int(accuracies.argmax()), int(accuracies.argmin()), int(np.argmax(on_first))
    rules = {rule: members.scored(labels, rule) for rule in _RULES}
    controls = [
        _control(method, members, of_method, labels)
        for method, of_method in seeds.items()
        if set(of_method.names) != set(members.names)
    ]
    return Ensemble(
        set=on,
        route=route,
        members=members.names,
        mean=rules[Combine.MEAN].accuracy,
        prob=rules[Combine.PROB].accuracy,
        vote=rules[Combine.VOTE].accuracy,
        best=float(accuracies[best]),
        best_member=members.names[best],
        worst=float(accuracies[worst]),
        worst_member=members.names[worst],
        mean_of_members=float(accuracies.mean()),
        selected=float(accuracies[selected]),
        selected_member=members.names[selected],
        over_best=difference(answered.correct, right[:, best]),
        over_selected=difference(answered.correct, right[:, selected]),
        controls=tuple(sorted(controls, key=lambda one: (-one.size, one.method))),
    )


def _control(method: str, members: Members, seeds: Members, labels: Labels) -> Control:
    size = min(len(members.names), len(seeds.names))
    ours, theirs = (_of_size(side, size, labels) for side in (members, seeds))
    rules = {
        rule: float(np.mean([seeds.some(some).scored(labels, rule).accuracy for some in theirs.choices]))
        for rule in (Combine.PROB, Combine.VOTE)
    }
    alone = [(column.argmax(axis=-1) == labels).mean() for column in seeds.columns]
    return Control(
        method=method,
        seeds=seeds.names,
        size=size,
        mean=theirs.accuracy,
        prob=rules[Combine.PROB],
        vote=rules[Combine.VOTE],
        mean_of_members=float(np.mean(alone)),
        ensemble=ours.accuracy,
        ece=theirs.ece,
        ensemble_ece=ours.ece,
        over_control=difference(ours.correct, theirs.correct),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _OfSize:
    """The mean logits of so many of some members: the mean over the choices of these.

    Attributes:
        correct: [n]; whether it is right, or the share of the choices that are.
    """

    choices: list[tuple[int, ...]]
    correct: Flags | Floats
    ece: float

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def _of_size(members: Members, size: int, labels: Labels) -> _OfSize:
    scored, choices = [], choices_of(len(members.names), size, work=size * members.columns[0].size)
    for some in choices:
        scored.append(members.some(some).scored(labels))
    errors = [one.honesty.scores(one.correct).ece for one in scored]
    right = [one.correct for one in scored]
    return _OfSize(
        choices=choices,
        correct=right[0] if len(right) == 1 else np.mean(right, axis=0),
        ece=float(np.mean(errors)),
    )


def choices_of(members: int, size: int, *, work: int = 1) -> list[tuple[int, ...]]:
    """So many of the members in every way, or in some ways drawn at random where there are too many.

    Args:
        work: Numbers that one choice reads.
    """
    most = max(5, min(MOST_CHOICES, _WORK // work))
    if comb(members, size) <= most:
        return list(islice(combinations(range(members), size), most))
    draws, random = set[tuple[int, ...]](), np.random.default_rng(_SEED)
    while len(draws) < most:
        draws.add(tuple(sorted(random.choice(members, size, replace=False).tolist())))
    return sorted(draws)
