"""Metrics as plain numbers: what is defined, what it adds up to, how Prometheus reads it.

`prometheus_client`'s own instruments take a lock for every series. One image of a six-member ensemble
moves some fifty of them, so here one lock covers them all: a scrape never shows half an image, and counting
one costs less than half (docs/decisions/0005-serving.md). Knows nothing of what the metrics mean.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One metric: what the scrape and its page in docs/ say about it.

    Attributes:
        buckets: A histogram's upper edges, ascending, without infinity.
    """

    name: str
    kind: Kind
    labels: Labels = ()
    help: str
    buckets: tuple[float, ...] = ()


def counter(name: str, labels: str, text: str) -> Definition:
    """A counter; `labels` are separated by spaces."""
    return Definition(name=name, kind="counter", labels=tuple(labels.split()), help=text)


def gauge(name: str, labels: str, text: str) -> Definition:
    """A gauge."""
    return Definition(name=name, kind="gauge", labels=tuple(labels.split()), help=text)


def histogram(name: str, labels: str, text: str, buckets: tuple[float, ...]) -> Definition:
    """A histogram."""
    return Definition(name=name, kind="histogram", labels=tuple(labels.split()), help=text, buckets=buckets)


Key = tuple[str, Labels, str]
"""A number of a series: its name, its label values, and of a histogram `sum` or the place of a bucket."""


class Number:
    """The values of a counter or a gauge, by label values.

    Attributes:
        kept: Values of before this start, for series that are not shown yet.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.values: dict[Labels, float] = {}
        self.kept: dict[Labels, float] = {}

    def create(self, labels: Labels) -> None:
        """Shows the series from now on, at zero, so that its first step is not lost to `rate()`."""
        if labels not in self.values:
            self.values[labels] = self.kept.pop(labels, 0)

    def keep(self, labels: Labels, value: float) -> None:
        """Sets a series that is shown, or what it will be when it is."""
        (self.values if labels in self.values else self.kept)[labels] = value

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + amount

    def set(self, value: float, labels: Labels = ()) -> None:
        self.values[labels] = value

    def copy(self) -> "Number":
        copy = Number(self.definition)
        copy.values = dict(self.values)
        return copy

    def family(self) -> Metric:
        kind = CounterMetricFamily if self.definition.kind == "counter" else GaugeMetricFamily
        family = kind(self.definition.name, self.definition.help, labels=self.definition.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Histogram:
    """The counts per bucket and the sums of a histogram, by label values.

    Attributes:
        kept: Numbers of before this start by their parts, for series that are not shown yet.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}
        self.kept: dict[Labels, dict[str, float]] = {}

    def create(self, labels: Labels) -> None:
        """Shows the series from now on, at zero."""
        if labels not in self.counts:
            self.counts[labels] = [0] * (len(self.definition.buckets) + 1)
            self.sums[labels] = 0
            for part, value in self.kept.pop(labels, {}).items():
                self.set(labels, part, value)

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Counts one value, which must be finite and not negative: a NaN would stay in the sum for ever."""
        self.create(labels)
        self.counts[labels][bisect_left(self.definition.buckets, value)] += 1
        self.sums[labels] += value

    def set(self, labels: Labels, part: str, value: float) -> None:
        """Sets the sum or a bucket of a series that is shown; ignores a bucket that there is not."""
        if part == "sum":
            self.sums[labels] = value
        elif part.isdecimal() and int(part) < len(self.counts[labels]):
            self.counts[labels][int(part)] = round(value)

    def keep(self, labels: Labels, part: str, value: float) -> None:
        """Sets a part of a series that is shown, or what it will be when it is."""
        if labels in self.counts:
            self.set(labels, part, value)
        else:
            self.kept.setdefault(labels, {})[part] = value

    def copy(self) -> "Histogram":
        copy = Histogram(self.definition)
        copy.counts = {labels: list(counts) for labels, counts in self.counts.items()}
        copy.sums = dict(self.sums)
        return copy

    def family(self) -> Metric:
        family = HistogramMetricFamily(
            self.definition.name, self.definition.help, labels=self.definition.labels
        )
        for labels, counts in self.counts.items():
            family.add_metric(labels, list(self._cumulated(counts)), self.sums[labels])
        return family

    def _cumulated(self, counts: list[int]) -> Iterator[tuple[str, float]]:
        total = 0
        for edge, count in zip((*self.definition.buckets, math.inf), counts, strict=True):
            total += count
            yield "+Inf" if edge == math.inf else str(float(edge)), total


class Series(Collector):
    """All values of one server. Hold `lock` to change them; a scrape copies them under it.

    Attributes:
        hidden: The names of metrics that a scrape does not show: their values are not known yet.
    """

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self.lock = Lock()
        self.hidden: frozenset[str] = frozenset()
        self.definitions = tuple(definitions)
        self.numbers = {d.name: Number(d) for d in self.definitions if d.kind != "histogram"}
        self.histograms = {d.name: Histogram(d) for d in self.definitions if d.kind == "histogram"}

    def add(self, additions: Mapping[Key, float]) -> None:
        """Adds to series, which are shown from now on; the caller holds the lock."""
        for (name, labels, part), amount in additions.items():
            if not part:
                self.numbers[name].create(labels)
                self.numbers[name].add(labels, amount)
                continue
            histogram = self.histograms[name]
            histogram.create(labels)
            if part == "sum":
                histogram.sums[labels] += amount
            else:
                histogram.counts[labels][int(part)] += round(amount)

    def keep(self, values: Mapping[Key, float]) -> None:
        """Sets series to what they were before this start; ignores what is not defined (any more)."""
        for (name, labels, part), value in values.items():
            if name in self.numbers and not part:
                if len(labels) == len(self.numbers[name].definition.labels):
                    self.numbers[name].keep(labels, value)
            elif name in self.histograms and len(labels) == len(self.histograms[name].definition.labels):
                self.histograms[name].keep(labels, part, value)

    def describe(self) -> Iterable[Metric]:
        """The families without values: lets a registry refuse two collectors of one name."""
        return Series(self.definitions).collect()

    def collect(self) -> Iterator[Metric]:
        with self.lock:
            shown: list[Number | Histogram] = [*self.numbers.values(), *self.histograms.values()]
            copies = [each.copy() for each in shown if each.definition.name not in self.hidden]
        # Writing thousands of samples takes milliseconds, so it happens after the lock is released, and one
        # metric at a time, so that a reader may pause between them.
        for copy in copies:
            yield copy.family()
