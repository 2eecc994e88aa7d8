"""Everything that is found on one set under one shift, before its logits make room for the next.

Shapes: n images, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_store.resolution.versions import ResolvedRoute
from training.measure.arrays import Flags, Labels, Rows
from training.measure.calibrated import Fitted, calibrated, fitted
from training.measure.candidate import Candidate, seed_groups, trained_models
from training.measure.document import EvaluatedSet
from training.measure.ensembles import Members, ensemble
from training.measure.figures import Comparison, Ensemble, Pair, Result
from training.measure.logits import Logits
from training.measure.paired import comparisons, pairs
from training.measure.robustness import beyond
from training.measure.robustness import fitted as fitted_line
from training.measure.scores import Scored, by_class, confusion, scored, wilson


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """What later choices need of one model on one set, image by image.

    Attributes:
        correct, nll: [n].
    """

    correct: Flags
    nll: Rows

    @classmethod
    def of(cls, scored: Scored) -> "Kept":
        return cls(correct=scored.correct, nll=scored.honesty.nll.astype(np.float32))

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One set, without its logits.

    Attributes:
        results: By the routes' labels.
        kept: The same.
        points: By the labels of adapters, of each alpha.
        members: Accuracies of each route's members.
        fits: The routes' temperatures; of the first set alone.
    """

    on: EvaluatedSet
    results: dict[str, Result]
    pairs: list[Pair]
    ensembles: list[Ensemble]
    comparisons: list[Comparison]
    kept: dict[str, Kept]
    points: dict[str, dict[float, Kept]]
    members: dict[str, list[float]]
    fits: dict[str, Fitted | None]


@dataclass(kw_only=True, eq=False)
class OnSet:
    """Routes on one set.

    Attributes:
        labels: [n].
        first: The first set; None where this is it.
        trained_on: By label.
    """

    candidates: Sequence[Candidate]
    on: EvaluatedSet
    labels: Labels
    logits: Logits
    first: Seen | None
    trained_on: Mapping[str, int]
    _scored: dict[str, Scored] = field(init=False)
    _fits: dict[str, Fitted | None] = field(init=False)

    def __post_init__(self) -> None:
        self._scored = {one.label: scored(one, self.logits, self.labels) for one in self.candidates}
        if self.first is not None:
            self._fits = self.first.fits
        else:
            self._fits = {one.label: fitted(one, self.logits, self.labels) for one in self.candidates}

    def seen(self, points: Mapping[str, Mapping[float, ResolvedRoute]]) -> Seen:
        """All of it.

        Args:
            points: Adapters at several alphas, by label.
        """
        classes = len(self.candidates[0].route.classes)
        singles = {one.label: self._scored[one.label] for one in self.candidates if not one.several}
        return Seen(
            on=self.on,
            results={one.label: self._result(one) for one in self.candidates},
            pairs=pairs(self.on.name, singles, classes),
            ensembles=[self._ensemble(one) for one in self.candidates if one.several],
            comparisons=comparisons(self.on.name, self._scored),
            kept={label: Kept.of(said) for label, said in self._scored.items()},
            points={
                adapter: {alpha: self._point(route) for alpha, route in routes.items()}
                for adapter, routes in points.items()
            },
            members={label: said.member_accuracies for label, said in self._scored.items()},
            fits=self._fits,
        )

    def _point(self, route: ResolvedRoute) -> Kept:
        return Kept.of(scored(Candidate(route=route), self.logits, self.labels))

    def _result(self, one: Candidate) -> Result:
        said, classes = self._scored[one.label], len(one.route.classes)
        low, high = wilson(int(said.correct.sum()), len(self.labels))
        macro_f1, per_class = by_class(said, classes)
        served = said.honesty.scores(said.correct)
        plain = one.temperature == 1 and one.cascade is None
        raw = said if plain else scored(one, self.logits, self.labels, temperature=1.0)
        fit = self._fits[one.label]
        honest = None
        if fit is not None:
            is_first = self.first is None
            honest = calibrated(one, self.logits, self.labels, fit, is_first=is_first).scores(said.correct)
        members = dict(zip(one.members, said.member_accuracies, strict=True))
        return Result(
            route=one.label,
            set=self.on.name,
            accuracy=said.accuracy,
            low=low,
            high=high,
            macro_f1=macro_f1,
            per_class=per_class,
            confusion=confusion(said, classes),
            agreement=float(said.agreement.mean()),
            confidence=served.confidence,
            nll=served.nll,
            ece=served.ece,
            brier=served.brier,
            confidence_histogram=served.bins,
            raw=raw.honesty.scores(said.correct),
            calibrated=honest,
            member_accuracies=members,
            cost=float(said.asked.mean()),
            trained_on=self.trained_on.get(one.label, 0),
            effective_robustness=self._beyond(one, said),
        )

    def _beyond(self, one: Candidate, said: Scored) -> float | None:
        """Effective robustness; the models that share an adapter with the route draw no line for it."""
        if self.first is None:
            return None
        own = {term.digest for term in one.route.terms()} if not one.several else set()
        points = {
            other.label: (self.first.kept[other.label].accuracy, self._scored[other.label].accuracy)
            for other in trained_models(self.candidates)
            if not own & {term.digest for term in other.route.terms()}
        }
        line = fitted_line(points, self.first.on.images, self.on.images)
        if line is None:
            return None
        here = self.first.kept[one.label].accuracy
        return beyond(line, here, self.first.on.images, said.accuracy)

    def _ensemble(self, one: Candidate) -> Ensemble:
        members = Members(
            names=one.members,
            columns=self.logits.stacked(one.route).columns,
            weights=np.array([member.weight for member in one.route.members]),
        )
        said = self._scored[one.label]
        on_first = said.member_accuracies if self.first is None else self.first.members[one.label]
        return ensemble(self.on.name, one.label, members, said, on_first=on_first, seeds=self._seeds())

    def _seeds(self) -> dict[str, Members]:
        """Adapters that differ in their seed alone, by method."""
        found = dict[str, Members]()
        for group in seed_groups(self.candidates):
            method = group[0].adapter.method if group[0].adapter is not None else ""
            columns = {one.members[0]: self.logits.stacked(one.route).columns[0] for one in group}
            found[method if method not in found else f"{method} ({len(found)})"] = Members.equal(columns)
        return found
