"""What is counted of answered images: how sure answers are, how members vote, what is expected of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from petl_vit.confidence import bin_of
from serving.metrics.label_values import ENSEMBLE, FROZEN, RouteLabels, consensus
from serving.metrics.series import Series
from serving.metrics.top_classes import TopClasses, class_label

LOW_CONFIDENCE = 0.5
"""Answers that are no surer are exemplars of their bucket: there are few, and people want to see them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What is counted of one image.

    Attributes:
        predicted: The answered class, by its index.
        class_name: Its name.
        votes: Each member's class, in the order of the route's members; none where they are not counted.
        voted: The class that all members answer, which votes are compared with; None is `predicted`.
        agreement: Share of the votes that are that class.
        margin: What the answer is more probable than the runner-up; None where that is not counted.
        expected: How often the answer is right, in [0, 1], by each of `petl_vit.signals.METHODS` that tells.
        prediction_id: Names the answer to scrapers that ask for exemplars; empty for none.
    """

    predicted: int
    class_name: str = ""
    votes: Sequence[int]
    voted: int | None = None
    confidence: float
    entropy: float
    mutual_information: float
    agreement: float
    margin: float | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    prediction_id: str = ""


class Answers:
    """The series of answered images; the caller holds the lock of `series`."""

    def __init__(self, series: Series) -> None:
        numbers = series.numbers
        self._histograms = series.histograms
        self._predictions = numbers["corolla_predictions_total"]
        self._bins = numbers["corolla_prediction_bin_total"]
        self._invalid = numbers["corolla_invalid_scores_total"]
        self._classes = numbers["corolla_class_predictions_total"]
        self._consensus = numbers["corolla_ensemble_predictions_total"]
        self._scored = numbers["corolla_member_predictions_total"]
        self._agreed = numbers["corolla_member_vote_agreements_total"]
        self._compared = numbers["corolla_ensemble_pair_comparisons_total"]
        self._alike = numbers["corolla_ensemble_pair_agreements_total"]
        self._expected = numbers["corolla_estimated_correct_total"]
        self._estimated = numbers["corolla_estimated_predictions_total"]
        self._squares = numbers["corolla_estimated_correct_squares_total"]
        self._frozen = numbers["corolla_frozen_predictions_total"]
        self._overrides = numbers["corolla_base_overrides_total"]
        self._foreign = numbers["corolla_foreign_inputs_total"]
        self._top_classes: dict[str, TopClasses] = {}

    def know(self, route: str, classes: Sequence[str]) -> None:
        """The classes of a named route's task, which are counted from now on."""
        self._top_classes.setdefault(route, TopClasses([*map(class_label, classes)]))

    def create(self, route: str, members: Sequence[str]) -> None:
        """Shows the series of a route that no domain divides, at zero."""
        for member in (ENSEMBLE, *members):
            self._invalid.create((route, member))
        if route in self._top_classes:
            self._invalid.create((route, FROZEN))
            for name in self._top_classes[route].shown:
                self._classes.create((route, name))

    def count(self, labels: RouteLabels, image: Answered) -> None:
        """One image that a route answered."""
        self._predictions.add(labels.base)
        self._class(labels.base[0], image.class_name)
        self._score("corolla_prediction_entropy_nats", labels, image.entropy)
        low = math.isfinite(image.confidence) and image.confidence <= LOW_CONFIDENCE
        shown = image.prediction_id if low else ""
        if self._score("corolla_prediction_confidence_ratio", labels, image.confidence, shown):
            self._bins.add(labels.bins[bin_of(image.confidence)])
        if image.margin is not None:
            self._score("corolla_margin_ratio", labels, image.margin)
        self._expect(labels, image.expected)
        if len(image.votes) > 1:
            self._consensus.add(labels.consensus[consensus(image.votes)])
            self._score("corolla_ensemble_mutual_information_nats", labels, image.mutual_information)
            # 3 of 10 may arrive as a float just above 0.3, the edge it belongs under.
            self._score("corolla_ensemble_agreement_ratio", labels, round(image.agreement, 6))
        if len(image.votes) == len(labels.members):
            self._votes(labels, image.predicted if image.voted is None else image.voted, image.votes)

    def frozen(self, labels: RouteLabels, *, override: bool, distance: float | None) -> None:
        """What the frozen backbone said of an image that was counted.

        Args:
            override: Whether the route answers another class than the base head.
            distance: Of its features, in units of the reference's; None where there is no reference.
        """
        self._frozen.add(labels.base)
        self._overrides.add(labels.base, int(override))
        if distance is None:
            return
        if self._score("corolla_feature_distance_ratio", labels, distance, member=FROZEN):
            self._foreign.add(labels.base, int(distance > 1))

    def _class(self, route: str, name: str) -> None:
        top = self._top_classes.get(route)
        if top is None or not name:
            return
        name, values = class_label(name), self._classes.values
        if (gone := top.add(name)) is not None:
            del values[route, gone]
        if name in top.shown:
            values[route, name] = top.count(name)

    def _expect(self, labels: RouteLabels, expected: Mapping[str, float]) -> None:
        for method, share in expected.items():
            if math.isfinite(share):  # what it is not finite for was counted as invalid
                series = labels.methods[method]
                self._estimated.add(series)
                self._expected.add(series, share)
                if method == "confidence":
                    self._squares.add(labels.base, share * share)

    def _votes(self, labels: RouteLabels, predicted: int, votes: Sequence[int]) -> None:
        scored, agreed = self._scored.values, self._agreed.values
        for member, vote in zip(labels.members, votes, strict=True):
            scored[member] += 1
            agreed[member] += vote == predicted
        compared, alike = self._compared.values, self._alike.values
        for first, second, pair in labels.pairs:
            compared[pair] += 1
            alike[pair] += votes[first] == votes[second]

    def _score(
        self,
        name: str,
        labels: RouteLabels,
        value: float,
        prediction_id: str = "",
        member: str = ENSEMBLE,
    ) -> bool:
        """Whether a number is finite and was counted; others are counted as invalid."""
        if not math.isfinite(value):
            self._invalid.add((labels.base[0], member))
            return False
        # Rounding leaves an entropy at -1e-9, and a negative value would look like a counter's reset.
        self._histograms[name].observe(max(value, 0.0), labels.base, prediction_id)
        return True
