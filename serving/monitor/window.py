"""What was counted in the last hour, or another length of time: a ring of increases."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from serving.monitor.samples import Counts, SeriesNames

_BUCKETS = 60  # a window is so exact


@dataclass
class _Bucket:
    start: float
    end: float
    counts: Counts = field(default_factory=Counts)


class Window:
    """The increases of the last `length_s` seconds, to a sixtieth of that.

    What is counted over a gap lies at the gap's end, so that it is in the window as a whole.
    """

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self._buckets: list[_Bucket] = []

    def add(self, at: float, counts: Counts) -> None:
        """Counts what came until `at`, which is not before the time of the call before."""
        last = self._buckets[-1] if self._buckets else None
        if last is None or at - last.start >= self.length_s / _BUCKETS:
            last = _Bucket(start=at, end=at)
            self._buckets.append(last)
        last.end = at
        last.counts.merge(counts)
        self._buckets = [bucket for bucket in self._buckets if bucket.end > at - self.length_s]

    def total(self) -> Counts:
        """Of all that is in the window."""
        counts = Counts()
        for bucket in self._buckets:
            counts.merge(bucket.counts)
        return counts

    def drop(self, route: str) -> None:
        """Forgets a route."""
        for bucket in self._buckets:
            bucket.counts.drop(route)

    def clear(self) -> None:
        """Forgets everything."""
        self._buckets = []

    def state(self, names: SeriesNames) -> JsonValue:
        """All that it knows, to go on from after a restart."""
        return [[bucket.start, bucket.end, bucket.counts.state(names)] for bucket in self._buckets]

    def restore(self, state: Any, names: SeriesNames) -> None:
        """Goes on from a state, which may be of a window of another length.

        Raises:
            IndexError, TypeError, ValueError: It is not one.
        """
        self._buckets = [
            _Bucket(start=float(start), end=float(end), counts=Counts.restored(counts, names))
            for start, end, counts in state
        ]
