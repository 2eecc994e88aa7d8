"""What a phase of the run looked like to the callers, and how long a burst was felt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.soak.expected import Verdict
from benchmarks.soak.traffic import Call, outcomes

WINDOW_S = 2.0
_ANSWERED = (Verdict.RIGHT.value, Verdict.STALE.value, Verdict.WRONG.value)


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Of the answered calls of a phase, milliseconds; NaN where none was."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, calls: Sequence[Call]) -> "Latencies":
        found = [1000 * call.latency_s for call in calls if call.outcome in _ANSWERED] or [float("nan")]
        p50, p95, p99 = np.percentile(found, [50, 95, 99])
        return cls(p50=float(p50), p95=float(p95), p99=float(p99))


def refused(calls: Sequence[Call]) -> int:
    """Calls that the server had no room or no time for."""
    counted = outcomes(calls)
    return counted["refused"] + counted["expired"]


def recovery_s(before: Sequence[Call], calls: Sequence[Call], over: float) -> float | None:
    """Seconds from the end of a burst until calls are as before it; None where they do not become so.

    They are so from the first moment on from which, for `WINDOW_S` seconds, none is refused and the median
    latency is at most the 95th percentile before the burst.

    Args:
        before: The calls before the burst.
        calls: Those from its end on.
        over: When it ended, time.monotonic() seconds.
    """
    usual = Latencies.of(before).p95
    after = sorted((call for call in calls if call.sent >= over), key=lambda call: call.sent)
    moments = [over, *(call.sent for call in after)]
    for moment in moments:
        window = [call for call in after if moment <= call.sent < moment + WINDOW_S]
        if window and not refused(window) and Latencies.of(window).p50 <= usual:
            return moment - over
    return None
