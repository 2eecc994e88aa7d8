"""What a source of metrics gives at one moment, and sums of counters by route and domain.

Knows nothing of where samples come from: a server's /metrics, Prometheus, or the registry of this process.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from pydantic import JsonValue

Labels = tuple[tuple[str, str], ...]
"""Label names with their values, sorted by name."""

Place = tuple[str, str]
"""A route and a domain, as labels; empty where a metric does not have the label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One value of one series.

    Attributes:
        instance: The server that it is of.
        labels: The others, without `instance` and `job`.
    """

    name: str
    instance: str
    labels: Labels
    value: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a source knew at one moment.

    Attributes:
        at: Seconds since 1970, by the source's clock.
        problems: What may be missing, one sentence each: a server that is down, a scrape that is old.
    """

    at: float
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()


class Source(Protocol):
    """Where readings come from.

    Attributes:
        name: What people call it: a URL.
        origin: Servers that started after this moment (seconds since 1970) are counted from zero; of any
            other, the first reading is where counting starts. 0 counts everything since the servers' start.
        step_s: The time between two readings of the past; 0 where a source keeps no history.
    """

    @property
    def name(self) -> str: ...

    @property
    def origin(self) -> float: ...

    @property
    def step_s(self) -> float: ...

    def read(self) -> Reading:
        """The newest values.

        Raises:
            Unreachable: It does not answer, or not what was expected; says why and what to do.
        """
        ...

    def history(self, since: float) -> Iterator[Reading]:
        """What it knew before, from `since` on, the oldest first; nothing where a source keeps no history.

        Raises:
            Unreachable: As `read`.
        """
        ...


@dataclass(frozen=True)
class Counts:
    """Increases of counters over some time, summed over servers; series that did not move are not there.

    Attributes:
        series: By metric name, place and the labels besides route and domain.
    """

    series: dict[tuple[str, Place], dict[Labels, float]] = field(default_factory=dict)

    def add(self, name: str, labels: Labels, amount: float) -> None:
        """Counts an increase of one series."""
        if not amount:
            return
        place, rest = split(labels)
        values = self.series.setdefault((name, place), {})
        values[rest] = values.get(rest, 0.0) + amount

    def merge(self, other: Self) -> None:
        """Adds all that another one has."""
        for key, values in other.series.items():
            own = self.series.setdefault(key, {})
            for rest, amount in values.items():
                own[rest] = own.get(rest, 0.0) + amount

    def drop(self, route: str) -> None:
        """Forgets a route."""
        for key in [key for key in self.series if key[1][0] == route]:
            del self.series[key]

    def total(self, name: str, route: str = "", domain: str = "", **labels: str) -> float:
        """The sum over the series of a metric in a place that have these labels; 0 where there is none."""
        return sum(amount for _, amount in self._having(name, (route, domain), labels))

    def by(self, label: str, name: str, route: str = "", domain: str = "", **labels: str) -> dict[str, float]:
        """The sums for each value of one label."""
        sums: dict[str, float] = {}
        for rest, amount in self._having(name, (route, domain), labels):
            value = dict(rest).get(label, "")
            sums[value] = sums.get(value, 0.0) + amount
        return sums

    def places(self, name: str) -> list[Place]:
        """The places where a metric has series, sorted."""
        return sorted(place for metric, place in self.series if metric == name)

    def state(self, names: "SeriesNames") -> JsonValue:
        """As JSON: the number of every series, followed by its amount."""
        numbers: list[JsonValue] = []
        for (name, place), values in self.series.items():
            for labels, amount in values.items():
                numbers += [names.number(name, place, labels), amount]
        return numbers

    @classmethod
    def restored(cls, state: Any, names: "SeriesNames") -> Self:
        """From JSON.

        Raises:
            IndexError, TypeError, ValueError: It is not what `state` gave.
        """
        counts = cls()
        for number, amount in zip(state[::2], state[1::2], strict=True):
            name, place, labels = names.series[number]
            counts.series.setdefault((name, place), {})[labels] = float(amount)
        return counts

    def _having(self, name: str, place: Place, labels: Mapping[str, str]) -> Iterable[tuple[Labels, float]]:
        wanted = set(labels.items())
        return [
            (rest, amount)
            for rest, amount in self.series.get((name, place), {}).items()
            if wanted.issubset(rest)
        ]


class SeriesNames:
    """Series by numbers, so that a state that has each of them many times says its labels once.

    Attributes:
        series: By number: the metric, the place and the other labels.
    """

    def __init__(self) -> None:
        self.series: list[tuple[str, Place, Labels]] = []
        self._numbers: dict[tuple[str, Place, Labels], int] = {}

    def number(self, name: str, place: Place, labels: Labels) -> int:
        """The number of a series; a new one for a new series."""
        key = (name, place, labels)
        number = self._numbers.setdefault(key, len(self.series))
        if number == len(self.series):
            self.series.append(key)
        return number

    def state(self) -> JsonValue:
        """As JSON; after all numbers were given."""
        return [[name, *place, dict(labels)] for name, place, labels in self.series]

    @classmethod
    def restored(cls, state: Any) -> Self:
        """From JSON.

        Raises:
            TypeError, ValueError: It is not what `state` gave.
        """
        names = cls()
        for name, route, domain, labels in state:
            rest = tuple(sorted((str(label), str(value)) for label, value in dict(labels).items()))
            names.number(str(name), (str(route), str(domain)), rest)
        return names


def split(labels: Labels) -> tuple[Place, Labels]:
    """The place among the labels, and the others."""
    values = dict(labels)
    place = (values.pop("route", ""), values.pop("domain", ""))
    return place, tuple(sorted(values.items()))
