"""Admission: whether new work fits into the queue, and whether its turn comes before its deadline.

What cannot be done is refused at once, so that the caller can go elsewhere while there is time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from petl_vit.errors import CorollaError, Expired, Overloaded
from serving.engine.fair_queue import FairQueue, Line
from serving.engine.pace import Pace
from serving.engine.priority import Path

_MOST_TIMES_ROOM = (64, 48, 40, 32, 16)
"""A share of the queue may be at most this multiple of the room left: that of a priority, a principal,
a task, a client and a flow."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why work is not taken.

    Attributes:
        reason: In the metrics: expired, unmeetable, full_rows or full_bytes.
        error: For the caller.
    """

    reason: str
    error: CorollaError


class Admission:
    """Decides about new work.

    Args:
        queue: Where it would wait.
        pace: Of the engine that serves the queue.
        max_rows, max_bytes: What may wait.
        doing: What is said of what is in the queue.
    """

    def __init__(
        self,
        queue: FairQueue[Any] | Line[Any],
        pace: Pace,
        *,
        max_rows: int,
        max_bytes: int,
        doing: str = "wait",
    ) -> None:
        self._queue, self._pace, self._doing = queue, pace, doing
        self._max_rows, self._max_bytes = max_rows, max_bytes

    def refusal(
        self, path: Path, rows: int, nbytes: int, *, now: float, deadline: float | None
    ) -> Refusal | None:
        """Why so much more work cannot be taken; None where it can."""
        return self._late(now, deadline, self._queue.ahead(path)) or self.full(path, rows, nbytes)

    def refusal_of_more(self, *, now: float, deadline: float | None) -> Refusal | None:
        """Why a later round of work that was taken, which goes first, cannot be done; None where it can.

        The queue has room for it: its images stayed in memory.
        """
        return self._late(now, deadline, 0)

    def full(self, path: Path, rows: int, nbytes: int) -> Refusal | None:
        """Why the queue has no room for so much more work; None where it has."""
        queues = list(self._queue.along(path))
        for unit, new, waiting, limit in (
            ("rows", rows, [queue.rows for queue in queues], self._max_rows),
            ("bytes", nbytes, [queue.nbytes for queue in queues], self._max_bytes),
        ):
            if (excess := _excess(new, waiting, limit)) > 0:
                error = self._no_room(unit, new, waiting[0], limit, excess)
                return Refusal(reason=f"full_{unit}", error=error)
        return None

    def _late(self, now: float, deadline: float | None, ahead: int) -> Refusal | None:
        """Refuses work that has expired, and work that will have when its turn comes."""
        if deadline is None:
            return None
        left = deadline - now
        if left <= 0:
            remedy = "allow more time"
            error = Expired("the deadline has passed before the work began", remedy=remedy)
            return Refusal(reason="expired", error=error)
        wait = ahead * self._pace.seconds_per_row + self._pace.remaining_s(now)
        if wait <= left:
            return None
        error = Expired(
            f"the deadline cannot be met: {wait:.3g} s of work comes first, {left:.3g} s are left",
            remedy="allow more time, or send the request to another replica",
        )
        return Refusal(reason="unmeetable", error=error)

    def _no_room(self, unit: str, new: int, waiting: int, limit: int, excess: float) -> Overloaded:
        reserved = " beside what is kept for others" if waiting + new <= limit else ""
        fewer = "send fewer images or members at once"
        rows = 0.0 if new > limit else self._queue.rows * excess / waiting
        return Overloaded(
            f"{waiting} {unit} {self._doing} and {new} more do not fit in {limit}{reserved}",
            field="queue",
            remedy=fewer if new > limit else f"retry after a pause, or {fewer}",
            retry_after_s=rows * self._pace.seconds_per_row or None,
        )


def _excess(new: int, waiting: Sequence[int], limit: int) -> float:
    """How much must leave the queue before `new` more fit; 0 or less when they do.

    Near the limit, nobody's share may be many times the room left to the others: so those who have little
    waiting find room in a queue that one of them fills.

    Args:
        waiting: What waits in all, and of the newcomer's priority, principal, task, client and flow.
    """
    needed = [(share + new) / times for share, times in zip(waiting[1:], _MOST_TIMES_ROOM, strict=False)]
    return max([new, *needed]) - (limit - waiting[0])
