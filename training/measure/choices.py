"""Which of several models one would choose without labels of the shifted sets, and what that costs there.

Shapes: n images of a set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.model_selection import KFold

from training.measure.arrays import Flags, Floats, Labels
from training.measure.figures import Choice

BUDGET = 0.01
"""Accuracy on the first set that the smallest alpha may lose."""
FOLDS = 5

Rule = Literal["accuracy", "nll", "budget", "half"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Option:
    """A model that may be chosen.

    Attributes:
        name: A route's label, or an alpha.
        correct, nll: [n] of each set, by its name; the first set is the first.
        cost: Members; the cheaper of two that are equal is chosen.
    """

    name: str | float
    correct: Mapping[str, Flags]
    nll: Mapping[str, Floats]
    cost: int = 1


def choose(options: Sequence[Option], rule: Rule) -> Choice:
    """The option that a rule takes on the first set, and its accuracies everywhere."""
    sets = list(options[0].correct)
    first = sets[0]
    chosen = _RULES[rule](options, first, slice(None))
    accuracy = {name: float(chosen.correct[name].mean()) for name in sets}
    accuracy[first] = _cross_validated(options, rule, first)
    best = {name: max(options, key=lambda one, on=name: _accuracy(one, on)) for name in sets}  # type: ignore[misc]
    return Choice(
        rule=rule,
        chosen=chosen.name,
        accuracy=accuracy,
        oracle={name: one.name for name, one in best.items()},
        cost={name: _accuracy(one, name) - accuracy[name] for name, one in best.items()},
    )


def rules_of(alphas: Sequence[float]) -> tuple[Rule, ...]:
    """The rules that choose among alphas."""
    return ("accuracy", "nll", "budget", *(("half",) if 0.5 in alphas else ()))


def _cross_validated(options: Sequence[Option], rule: Rule, first: str) -> float:
    """Accuracy on the first set of what is chosen without the images that it is scored on."""
    n = len(options[0].correct[first])
    if n < FOLDS:
        return _accuracy(_RULES[rule](options, first, slice(None)), first)
    right = np.zeros(n, dtype=np.bool_)
    for rest, part in KFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(n)):
        right[part] = _RULES[rule](options, first, rest).correct[first][part]
    return float(right.mean())


def _accuracy(one: Option, on: str) -> float:
    return float(one.correct[on].mean())


def _by_accuracy(options: Sequence[Option], first: str, some: slice | Labels) -> Option:
    def good(one: Option) -> tuple[float, float, int]:
        return float(one.correct[first][some].mean()), -float(one.nll[first][some].mean()), -one.cost

    return max(options, key=good)


def _by_nll(options: Sequence[Option], first: str, some: slice | Labels) -> Option:
    return min(options, key=lambda one: (float(one.nll[first][some].mean()), one.cost))


def _by_budget(options: Sequence[Option], first: str, some: slice | Labels) -> Option:
    """The smallest alpha that loses little."""
    accuracies = {one.name: float(one.correct[first][some].mean()) for one in options}
    least = max(accuracies.values()) - BUDGET - 1e-9
    return min((one for one in options if accuracies[one.name] >= least), key=lambda one: float(one.name))


def _half(options: Sequence[Option], first: str, some: slice | Labels) -> Option:
    return next(one for one in options if one.name == 0.5)


_RULES: dict[Rule, Callable[[Sequence[Option], str, slice | Labels], Option]] = {
    "accuracy": _by_accuracy,
    "nll": _by_nll,
    "budget": _by_budget,
    "half": _half,
}
