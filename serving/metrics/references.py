"""The references that named routes are compared with, as gauges, and what estimates may rest on."""

import hashlib
from collections.abc import Iterator, Sequence

from model_store.format.reference import Reference
from serving.metrics.label_values import MAX_PAIRED_MEMBERS, pair_label
from serving.metrics.scoring import Scoring
from serving.metrics.series import Labels, Series

_DIGITS = 12  # of a digest


class References:
    """The references of named routes, and their series; the caller holds the lock of `series`.

    Attributes:
        scoring: By route, what answers are scored by: a reference of what answers now, of images enough for
            estimates.
    """

    def __init__(self, series: Series) -> None:
        self.scoring: dict[str, Scoring] = {}
        self._numbers = series.numbers
        self._shown: dict[str, list[tuple[str, Labels]]] = {}

    def show(self, route: str, members: Sequence[str], reference: Reference | None, stale: str) -> None:
        """Shows the reference of a route in the place of the one before; None is a route without one.

        Args:
            members: Their labels, in order; none where they are too many.
            stale: Why nothing is estimated by it; empty where it is of what answers now.
        """
        for name, labels in self._shown.pop(route, ()):
            del self._numbers[name].values[labels]
        self.scoring.pop(route, None)
        fits = reference is not None and not stale
        self._numbers["corolla_reference_stale"].set(int(reference is not None and not fits), (route,))
        self._numbers["corolla_reference_images"].set(
            reference.images if reference is not None and fits else 0, (route,)
        )
        if reference is None:
            return
        self._set(route, "corolla_reference_info", _digests(reference), 1)
        if not fits or reference.no_estimate:
            return
        self.scoring[route] = Scoring.of(reference)
        for name, labels, value in _constants(reference, members):
            self._set(route, name, labels, value)

    def _set(self, route: str, name: str, labels: Labels, value: float) -> None:
        self._numbers[name].set(value, (route, *labels))
        self._shown.setdefault(route, []).append((name, (route, *labels)))


def _digests(reference: Reference) -> Labels:
    """Of the route that was measured, of the images, and of the whole."""
    whole = hashlib.sha256(reference.encode()).hexdigest()
    return tuple(digest[:_DIGITS] for digest in (reference.route.digest, reference.data.digest, whole))


def _constants(reference: Reference, members: Sequence[str]) -> Iterator[tuple[str, Labels, float]]:
    """The names, the labels without the route, and the values of the gauges."""
    confidence = reference.confidence
    yield "corolla_reference_accuracy_ratio", (), reference.accuracy
    yield "corolla_reference_agreement_ratio", (), reference.agreement
    yield "corolla_reference_confidence_ratio", (), confidence.mean
    if len(reference.route.members) > 1 and reference.unanimous is not None:
        yield "corolla_reference_unanimous_ratio", (), reference.unanimous / reference.images
    for edge, share in zip(confidence.edges, confidence.cumulative, strict=True):
        yield "corolla_reference_confidence_cdf_ratio", (str(float(edge)),), share
    for number, share in enumerate(confidence.shares):
        yield "corolla_reference_bin_ratio", (str(number),), share
    for method, value in reference.estimates.items():
        yield "corolla_reference_estimate_ratio", (method,), value
    for indicator, value in reference.rates.items():
        yield "corolla_reference_rate_ratio", (indicator,), value
    if len(members) != len(reference.member_accuracies):
        return
    for member, accuracy in zip(members, reference.member_accuracies, strict=True):
        yield "corolla_reference_member_accuracy_ratio", (member,), accuracy
    for pair in reference.pairs if len(members) <= MAX_PAIRED_MEMBERS else ():
        label = pair_label(members[pair.first], members[pair.second])
        yield "corolla_reference_pair_agreement_ratio", (label,), pair.agreements / reference.images
