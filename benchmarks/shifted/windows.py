"""What the evaluator says of windows of images whose accuracy is known.

Shapes: b images of a window.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.shifted.served import DOMAIN, Served, Traces, sample
from model_store.format.reference import Reference
from serving.monitor.confusion import Confusions
from serving.monitor.evaluator import Evaluator
from serving.monitor.samples import Reading, Sample
from serving.monitor.status import DomainStatus, Headline, Line
from training.measure.arrays import Floats

AT = 1.7e9
"""The moment of the first reading, seconds since 1970."""
FROZEN_SHARE = 0.02
"""Of the images that the frozen backbone sees too: the server's default."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a route's answers.

    Attributes:
        images: How many there are.
        truth: Their accuracy.
        estimates: By method.
        trusted: The methods that the evaluator trusts here.
    """

    route: str
    domain: str
    images: int
    seed: int
    truth: float
    estimates: Mapping[str, float]
    trusted: frozenset[str]
    headline: Headline | None
    line: Line | None

    def error(self, method: str) -> float | None:
        """How far a method is above the truth; None where it says nothing."""
        said = self.estimates.get(method)
        return None if said is None else said - self.truth


def windows(served: Served, traces: Traces, sizes: Sequence[int], seeds: int) -> Iterator[Window]:
    """Windows of images that are drawn with replacement, of every size in every seed."""
    confusions = Confusions(_Kept(served.reference))
    gauges = served.gauges()
    for size in sizes:
        for seed in range(seeds):
            random = np.random.default_rng([seed, size, *traces.name.encode()])
            drawn = random.integers(0, len(traces), size)
            frozen = random.random(size) < FROZEN_SHARE
            sums = traces.sums(drawn, frozen=frozen, labelled=np.zeros(size, dtype=np.bool_))
            status = _status(traces, sums, gauges, confusions)
            yield Window(
                route=served.route.label,
                domain=traces.name,
                images=size,
                seed=seed,
                truth=float(traces.correct[drawn].mean()),
                estimates={one.method: one.value for one in status.estimates},
                trusted=frozenset(one.method for one in status.estimates if one.trusted),
                headline=status.headline,
                line=status.line,
            )


def samples(traces: Traces, sums: Floats) -> list[Sample]:
    """Counters [S] as the evaluator reads them."""
    series = zip(traces.series, sums.tolist(), strict=True)
    return [sample(name, labels, value) for (name, labels), value in series]


def _status(
    traces: Traces, sums: Floats, gauges: Sequence[Sample], confusions: Confusions
) -> DomainStatus:
    """What the evaluator says after its first reading."""
    evaluator = Evaluator(Replayed(), confusions=confusions)
    status = evaluator.take(Reading(at=AT, samples=(*samples(traces, sums), *gauges)))
    (found,) = (one for route in status.routes for one in route.domains if one.domain == DOMAIN)
    return found


class Replayed:
    """A source that is not read: its readings are given."""

    name, origin, step_s = "replayed", 0.0, 1.0

    def read(self) -> Reading:
        raise NotImplementedError

    def history(self, since: float) -> Iterator[Reading]:
        raise NotImplementedError


class _Kept:
    """The references of a store that has one."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def of_route(self, route: str) -> Sequence[Reference]:
        return [self._reference] if route == self._reference.route.digest else []
