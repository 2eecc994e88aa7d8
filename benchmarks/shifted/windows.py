"""What the evaluator says of windows of images whose accuracy is known.

Shapes: b images of a window.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.shifted.served import DOMAIN, Served, Traces, sample
from model_store.format.reference import Reference
from serving.monitor.alarms import SequentialAlarms
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
            times = np.bincount(random.integers(0, len(traces), size), minlength=len(traces))
            frozen, labelled = random.binomial(times, FROZEN_SHARE), np.zeros_like(times)
            sums = traces.sums(times, frozen=frozen, labelled=labelled)
            status = _status(traces, sums, gauges, confusions)
            yield Window(
                route=served.route.label,
                domain=traces.name,
                images=size,
                seed=seed,
                truth=float(times @ traces.correct) / size,
                estimates={one.method: one.value for one in status.estimates},
                trusted=frozenset(one.method for one in status.estimates if one.trusted),
                headline=status.headline,
                line=status.line,
            )


def samples(traces: Traces, sums: Floats) -> list[Sample]:
    """Counters [S] as the evaluator reads them."""
    series = zip(traces.series, sums.tolist(), strict=True)
    return [sample(name, labels, value) for (name, labels), value in series]


def _status(traces: Traces, sums: Floats, gauges: Sequence[Sample], confusions: Confusions) -> DomainStatus:
    """What the evaluator says after its first reading."""
    evaluator = Evaluator(Replayed(), confusions=confusions, alarms=SequentialAlarms())
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

    def stamps(self) -> Mapping[tuple[str, str], object]:
        return {(self._reference.route.digest, self._reference.data.digest): None}

    def get(self, route: str, data: str) -> Reference | None:
        return self._reference
