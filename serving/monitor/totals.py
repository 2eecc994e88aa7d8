"""Increases of counters between two readings, over servers that restart, come, go and are not always seen."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from serving.monitor.names import COUNTERS, DURABLE, START
from serving.monitor.samples import Counts, Labels, Reading, Sample

_COUNTERS = frozenset(COUNTERS)
_FORGET_S = 7 * 86400.0  # a server that was not seen for so long


@dataclass
class _Server:
    """What was last seen of one server.

    Attributes:
        start: When its process started; None where it does not say.
    """

    seen: float
    start: float | None
    values: dict[tuple[str, Labels], float] = field(default_factory=dict)


class Totals:
    """Turns readings into increases.

    A counter that fell, or whose process is another one, restarted at zero. Between two readings of one
    process nothing is lost, however far they are apart; what a process counted between the last reading of it
    and its end is.

    Args:
        origin: As in `Source`.
    """

    def __init__(self, origin: float = 0.0) -> None:
        self._origin = origin
        self._servers: dict[str, _Server] = {}

    def step(self, reading: Reading) -> tuple[Counts, tuple[str, ...]]:
        """The increases since the reading before, and what was strange."""
        counts, problems = Counts(), []
        for instance, samples in _by_instance(reading.samples).items():
            start = next((sample.value for sample in samples if sample.name == START), None)
            server = self._servers.get(instance)
            if server and _before(start, server.start):
                problems.append(
                    f"{instance}: several processes answer in turn, and their counters cannot be told apart; "
                    "read each of them, or Prometheus"
                )
                continue
            if server is None:
                server = self._servers[instance] = _Server(seen=reading.at, start=start)
                known = self._baseline(start)
            else:
                known = True
            self._count(server, samples, start, known, counts)
            server.seen, server.start = reading.at, start
        self._forget(reading.at)
        return counts, tuple(problems)

    def _baseline(self, start: float | None) -> bool:
        """Whether a server that is seen for the first time is counted from zero."""
        return self._origin == 0 or (start is not None and start >= self._origin)

    def _count(
        self, server: _Server, samples: Iterable[Sample], start: float | None, known: bool, counts: Counts
    ) -> None:
        restarted = _before(server.start, start)
        for sample in samples:
            if sample.name not in _COUNTERS or not math.isfinite(sample.value):
                continue
            key = (sample.name, sample.labels)
            before = server.values.get(key, 0.0)
            fell = sample.value < before or (restarted and sample.name not in DURABLE)
            amount = sample.value if fell else sample.value - before
            server.values[key] = sample.value
            if known:
                counts.add(sample.name, sample.labels, amount)

    def _forget(self, now: float) -> None:
        for instance in [name for name, one in self._servers.items() if one.seen < now - _FORGET_S]:
            del self._servers[instance]

    def state(self) -> JsonValue:
        """All that it knows, to go on from after a restart."""
        return {
            name: {
                "seen": server.seen,
                "start": server.start,
                "values": [
                    [metric, dict(labels), value] for (metric, labels), value in server.values.items()
                ],
            }
            for name, server in self._servers.items()
        }

    def restore(self, state: Any) -> None:
        """Goes on from a state.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: It is not one.
        """
        self._servers = {
            name: _Server(
                seen=float(server["seen"]),
                start=None if server["start"] is None else float(server["start"]),
                values={
                    (str(metric), tuple(sorted(labels.items()))): float(value)
                    for metric, labels, value in server["values"]
                },
            )
            for name, server in state.items()
        }


def _before(first: float | None, second: float | None) -> bool:
    """Whether one process started before another; never where that is not known."""
    return first is not None and second is not None and first < second


def _by_instance(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.instance, []).append(sample)
    return groups
