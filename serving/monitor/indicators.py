"""What alarms watch: numbers of an image, each in [0, 1], whose mean rises when something is wrong.

Each is known by two sums over images, from counters: how many there are, and of the number itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from petl_vit.estimators import LOW_SCORE
from petl_vit.evidence import upper_count, upper_mean
from serving.monitor.alarm_settings import AlarmSettings
from serving.monitor.look import ReferenceValues
from serving.monitor.samples import Counts
from serving.monitor.status import Kind

_MOMENTS = "corolla_feedback_moment_total"

Sums = tuple[float, float]
"""How many images there are, and the sum of their numbers."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Where an indicator is read: what was counted of a route in a domain, and what holds for the route."""

    counts: Counts
    route: str
    domain: str
    reference: ReferenceValues
    settings: AlarmSettings

    def total(self, name: str, **labels: str) -> float:
        """The increase of a counter."""
        return self.counts.total(name, self.route, self.domain, **labels)

    def missing(self, method: str) -> Sums:
        """Of what an estimate of right answers lacks to 1."""
        images = self.total("corolla_estimated_predictions_total", method=method)
        return images, images - self.total("corolla_estimated_correct_total", method=method)


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """A number of an image.

    Attributes:
        kind: Of the alarm that it can raise.
        sums: From counters.
        bound: What its mean exceeds with at most some probability, from its mean on a number of reference
            images: bound(mean, images, probability).
    """

    kind: Kind
    sums: Callable[[Counted], Sums]
    bound: Callable[[float, int, float], float]


def _disagreement(counted: Counted) -> Sums:
    """The share of the pairs of members that name different classes."""
    pairs = "corolla_ensemble_pair_comparisons_total"
    known = counted.counts.by("pair", pairs, counted.route, counted.domain)
    many = max(len(counted.reference.pair_agreements), len(known), 1)
    compared = counted.total(pairs)
    return compared / many, (compared - counted.total("corolla_ensemble_pair_agreements_total")) / many


def _low_score(counted: Counted) -> Sums:
    return counted.missing(LOW_SCORE)


def _unsure(counted: Counted) -> Sums:
    return counted.missing("confidence")


def _foreign(counted: Counted) -> Sums:
    images = counted.total("corolla_feature_distance_ratio_count")
    return images, counted.total("corolla_foreign_inputs_total")


def _override(counted: Counted) -> Sums:
    images = counted.total("corolla_frozen_predictions_total")
    return images, counted.total("corolla_base_overrides_total")


def _error(counted: Counted) -> Sums:
    """Of requested labels the weights, which rise to 1 at most; of all labels how many there are."""
    if counted.settings.labels == "requested":
        share = counted.settings.label_share
        return share * counted.total(_MOMENTS, moment="w"), share * counted.total(_MOMENTS, moment="wrong")
    labels = "corolla_feedback_total"
    return counted.total(labels), counted.total(labels, outcome="incorrect")


def heavier_than(counted: Counted) -> float | None:
    """The mean weight of requested labels, by weight, where it is more than the settings say any can be."""
    weight, squares = (counted.total(_MOMENTS, moment=moment) for moment in ("w", "w2"))
    heaviest = squares / weight if weight > 0 else 0.0
    return heaviest if heaviest * counted.settings.label_share > 1 + 1e-6 else None


def _of_events(mean: float, images: int, level: float) -> float:
    """Of numbers that are 0 or 1."""
    return upper_count(round(mean * images), images, level)


def _of_numbers(mean: float, images: int, level: float) -> float:
    return upper_mean(mean * images, images, level)


def _of_a_chosen_threshold(mean: float, images: int, level: float) -> float:
    """Of events by a threshold that was chosen among the scores of these very images, so among images + 1."""
    return _of_events(mean, images, level / (images + 1))


INDICATORS: Mapping[str, Indicator] = {
    "disagreement": Indicator(kind="shift", sums=_disagreement, bound=_of_numbers),
    "low_score": Indicator(kind="shift", sums=_low_score, bound=_of_a_chosen_threshold),
    "unsure": Indicator(kind="shift", sums=_unsure, bound=_of_numbers),
    "foreign": Indicator(kind="shift", sums=_foreign, bound=_of_events),
    "override": Indicator(kind="shift", sums=_override, bound=_of_events),
    "error": Indicator(kind="accuracy", sums=_error, bound=_of_events),
}
"""By name, as in `corolla_reference_rate_ratio`; docs/alarms.md says what each is."""

KINDS: Mapping[Kind, tuple[str, ...]] = {
    kind: tuple(name for name, one in INDICATORS.items() if one.kind == kind)
    for kind in ("shift", "accuracy")
}
"""The indicators of each kind of alarm."""
