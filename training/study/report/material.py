"""What a report is made from, and how its parts look things up in it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from scipy.stats import false_discovery_control

from model_store.format.records import Manifest
from training.measure.document import EvaluatedRoute, EvaluatedSet, Evaluation
from training.measure.figures import Comparison, Control, Ensemble, Result
from training.study.report.contents import Gallery
from training.study.report.families import PETL

MOST_SHIFTED = 6
"""Shifted sets in figures and tables; a suite of corruptions has up to 75."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """One evaluation and what is known besides.

    Attributes:
        manifests: Of the adapters that the store has, by the label of their route.
        disputed: Thumbnails of the most disputed images.
        no_disputed: Why there are none.
        notes: What readers should know about how the page was made.
    """

    evaluation: Evaluation
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    disputed: Gallery | None = None
    no_disputed: str = ""
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> EvaluatedSet:
        """The set on which everything is chosen."""
        return self.evaluation.reference

    @property
    def shifted(self) -> list[EvaluatedSet]:
        """Sets of other domains, or corrupted ones."""
        return [one for one in self.evaluation.sets if one.shifted]

    @cached_property
    def shown(self) -> list[EvaluatedSet]:
        """The sets that figures have room for: the reference and at most `MOST_SHIFTED` others.

        Domains come before corruptions, of which some are taken from the easiest to the hardest.
        """
        domains = [one for one in self.shifted if one.shift is None][:MOST_SHIFTED]
        corrupted = sorted((one for one in self.shifted if one.shift is not None), key=self._ease)
        room = min(MOST_SHIFTED - len(domains), len(corrupted))
        taken = {round(place * (len(corrupted) - 1) / max(room - 1, 1)) for place in range(room)}
        return [self.reference, *domains, *(corrupted[place] for place in sorted(taken))]

    def _ease(self, one: EvaluatedSet) -> float:
        """Falls with the models' mean accuracy on a set."""
        return -sum(result.accuracy for result in self.measured(self.models, one.name))

    @property
    def unshown(self) -> str:
        """A sentence on the sets that are not among the shown ones; empty where all are."""
        more = len(self.evaluation.sets) - len(self.shown)
        return f" {more} more sets are in the CSV of the last table." if more else ""

    @cached_property
    def routes(self) -> dict[str, EvaluatedRoute]:
        """By label."""
        return {route.label: route for route in self.evaluation.routes}

    @property
    def models(self) -> list[EvaluatedRoute]:
        """The frozen backbone's head and single adapters as they were trained."""
        return [route for route in self.routes.values() if route.kind in ("base", "adapter")]

    @property
    def adapters(self) -> list[EvaluatedRoute]:
        return [route for route in self.routes.values() if route.kind == "adapter"]

    @property
    def petl(self) -> list[EvaluatedRoute]:
        """Adapters that train a small part of the backbone."""
        return [route for route in self.adapters if route.method in PETL]

    @property
    def joint(self) -> list[EvaluatedRoute]:
        """Ensembles and cascades."""
        return [route for route in self.routes.values() if route.kind in ("ensemble", "cascade")]

    @cached_property
    def _results(self) -> dict[tuple[str, str], Result]:
        return {(result.route, result.set): result for result in self.evaluation.results}

    def result(self, label: str, on: str | None = None) -> Result | None:
        """Of a route on a set, the reference by default; None where it was not measured there."""
        return self._results.get((label, on or self.reference.name))

    def measured(self, routes: Iterable[EvaluatedRoute], on: str | None = None) -> list[Result]:
        """The results of routes on a set, the most accurate first."""
        results = [self.result(route.label, on) for route in routes]
        return sorted((one for one in results if one is not None), key=lambda one: -one.accuracy)

    @cached_property
    def _comparisons(self) -> dict[tuple[str, str, str], Comparison]:
        both = {}
        for one in self.evaluation.comparisons:
            both[one.set, one.a, one.b] = one
            both[one.set, one.b, one.a] = one.model_copy(
                update={
                    "a": one.b,
                    "b": one.a,
                    "difference": -one.difference,
                    "low": -one.high,
                    "high": -one.low,
                    "only_a": one.only_b,
                    "only_b": one.only_a,
                }
            )
        return both

    def comparison(self, a: str, b: str, on: str | None = None) -> Comparison | None:
        """The accuracy of a less that of b on the same images; None where they were not compared."""
        return self._comparisons.get((on or self.reference.name, a, b))

    def short(self, label: str) -> str:
        """A label without versions, where no other label is the same without them."""
        return self._short.get(label, label)

    @cached_property
    def _short(self) -> dict[str, str]:
        return short_names(list(self.routes))

    @cached_property
    def groups(self) -> list[list[EvaluatedRoute]]:
        """Single models, those together that differ in nothing but their seed."""
        groups: dict[str, list[EvaluatedRoute]] = {}
        for route in self.models:
            groups.setdefault(route.seeds_of or route.label, []).append(route)
        return list(groups.values())

    def group_name(self, group: list[EvaluatedRoute]) -> str:
        """The short label of a single model, or the method of several seeds and how many they are."""
        if len(group) == 1:
            return self.short(group[0].label)
        return f"{group[0].method} ×{len(group)}"


def adjusted(comparisons: Iterable[Comparison]) -> list[tuple[Comparison, float]]:
    """Comparisons with their McNemar p values adjusted for how many there are (Benjamini and Hochberg)."""
    tested = [one for one in comparisons if one.mcnemar_p is not None]
    if not tested:
        return []
    values = false_discovery_control([one.mcnemar_p for one in tested])
    return [(one, float(value)) for one, value in zip(tested, values, strict=True)]


def control_of(ensemble: Ensemble) -> Control | None:
    """The strongest of the largest controls: what an ensemble has beyond it is not due to more seeds."""
    sizes = [one.size for one in ensemble.controls]
    largest = [one for one in ensemble.controls if one.size == max(sizes)]
    return max(largest, key=lambda one: one.mean, default=None)


def short_names(labels: Sequence[str]) -> dict[str, str]:
    """Labels without versions, where no other one is the same without them."""
    stems = [_stem(label) for label in labels]
    return {
        label: stem if stems.count(stem) == 1 else label for label, stem in zip(labels, stems, strict=True)
    }


def _stem(label: str) -> str:
    return re.sub(r":\d+(?=$|[\s,;)])", "", label)
