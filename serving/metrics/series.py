"""Metrics as plain numbers: what is defined, what it adds up to, how Prometheus reads it.

`prometheus_client`'s own instruments take a lock for every series. One image of a six-member ensemble
moves some fifty of them, so here one lock covers them all: a scrape never shows half an image, and counting
one costs less than half (docs/decisions/0005-serving.md). Knows nothing of what the metrics mean.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]

EXEMPLAR_CHARACTERS = 32


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


def exemplar(prediction_id: str, value: float) -> Exemplar:
    """One answer that a counter or a bucket counted; scrapers that ask for OpenMetrics see it.

    It has the first characters of the answer's prediction id, which tell it from all others: labels of an
    exemplar have at most 128 characters together.
    """
    return Exemplar({"prediction_id": prediction_id[:EXEMPLAR_CHARACTERS]}, value, round(time.time(), 3))


Key = tuple[str, Labels, str]
"""A number of a series: its name, its label values, and of a histogram `sum` or the place of a bucket."""


class Number:
    """The values of a counter or a gauge, by label values; and of a counter the latest exemplars.

    Attributes:
        kept: Values of before this start, for series that are not shown yet.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.values: dict[Labels, float] = {}
        self.exemplars: dict[Labels, Exemplar] = {}
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

    def show(self, labels: Labels, prediction_id: str) -> None:
        """Makes an answer that was counted the exemplar of its series."""
        self.exemplars[labels] = exemplar(prediction_id, 1)

    def set(self, value: float, labels: Labels = ()) -> None:
        self.values[labels] = value

    def copy(self) -> "Number":
        copy = Number(self.definition)
        copy.values, copy.exemplars = dict(self.values), dict(self.exemplars)
        return copy

    def family(self) -> Metric:
        name, text, names = self.definition.name, self.definition.help, self.definition.labels
        if self.definition.kind == "gauge":
            gauge = GaugeMetricFamily(name, text, labels=names)
            for labels, value in self.values.items():
                gauge.add_metric(labels, value)
            return gauge
        counter = CounterMetricFamily(name, text, labels=names)
        for labels, value in self.values.items():
            counter.add_metric(labels, value, exemplar=self.exemplars.get(labels))
        return counter


class Histogram:
    """The counts per bucket, their latest exemplars, and the sums of a histogram, by label values.

    Attributes:
        kept: Numbers of before this start by their parts, for series that are not shown yet.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}
        self.exemplars: dict[Labels, dict[int, Exemplar]] = {}
        self.kept: dict[Labels, dict[str, float]] = {}

    def create(self, labels: Labels) -> None:
        """Shows the series from now on, at zero."""
        if labels not in self.counts:
            self.counts[labels] = [0] * (len(self.definition.buckets) + 1)
            self.sums[labels] = 0
            for part, value in self.kept.pop(labels, {}).items():
                self.set(labels, part, value)

    def observe(self, value: float, labels: Labels = (), prediction_id: str = "") -> None:
        """Counts one value, which must be finite and not negative: a NaN would stay in the sum for ever.

        Args:
            prediction_id: Of the answer that is the bucket's exemplar from now on; empty for none.
        """
        self.create(labels)
        bucket = bisect_left(self.definition.buckets, value)
        self.counts[labels][bucket] += 1
        self.sums[labels] += value
        if prediction_id:
            self.exemplars.setdefault(labels, {})[bucket] = exemplar(prediction_id, value)

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
        copy.exemplars = {labels: dict(buckets) for labels, buckets in self.exemplars.items()}
        return copy

    def family(self) -> Metric:
        family = HistogramMetricFamily(
            self.definition.name, self.definition.help, labels=self.definition.labels
        )
        for labels, counts in self.counts.items():
            buckets = list(self._cumulated(counts, self.exemplars.get(labels, {})))
            family.add_metric(labels, buckets, self.sums[labels])
        return family

    def _cumulated(
        self, counts: list[int], exemplars: Mapping[int, Exemplar]
    ) -> Iterator[tuple[str, float] | tuple[str, float, Exemplar]]:
        total = 0
        for bucket, edge in enumerate((*self.definition.buckets, math.inf)):
            total += counts[bucket]
            name = "+Inf" if edge == math.inf else str(float(edge))
            yield (name, total, exemplars[bucket]) if bucket in exemplars else (name, total)


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
