"""What a process takes as time goes by, and whether it grows."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread

import numpy as np
import psutil
from scipy.stats import theilslopes

from benchmarks.processes import Corolla

TASKS = "corolla_event_loop_tasks"
HEAP = 'corolla_heap_bytes{{state="{}"}}'
WARM_UP = 0.25
"""Share of a run that is left out of its slopes: caches fill, and the first of everything is allocated."""
_BLOCKS = 40
_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Slope:
    """How fast something grows, an hour, and the 95 % interval of it."""

    an_hour: float
    low: float
    high: float
    first: float
    last: float

    def __str__(self) -> str:
        return f"{self.an_hour:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(kw_only=True)
class Growth:
    """Samples of a server's process, taken in a thread of its own.

    Attributes:
        every_s: Between two samples.
        samples: By what is counted, one for each of `times`.
    """

    server: Corolla
    every_s: float
    times: list[float] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._over = Event()
        self._process = psutil.Process(self.server.tree.process.pid)
        self._thread = Thread(target=self._sample_on, name="growth", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def slopes(self) -> dict[str, Slope]:
        """Of everything that is counted, once it is warm."""
        return {name: slope(self.times, values) for name, values in self.samples.items()}

    def _sample_on(self) -> None:
        while not self._over.is_set():
            for name, value in self.sample().items():
                self.samples.setdefault(name, []).append(value)
            self.times.append(time.monotonic())
            self._over.wait(self.every_s)

    def sample(self) -> Mapping[str, float]:
        """What the server takes now."""
        return {
            "memory_mib": self._process.memory_full_info().uss / 2**20,
            "handles": self._process.num_fds(),
            "threads": self._process.num_threads(),
            "tasks": self.server.value(TASKS),
            "heap_used_mib": self.server.value(HEAP.format("used")) / 2**20,
            "heap_free_mib": self.server.value(HEAP.format("free")) / 2**20,
        }


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """Theil-Sen's slope of medians over blocks of time, so that neighbouring samples count once.

    Args:
        times: Seconds, rising.
    """
    at, found = np.array(times), np.array(values, float)
    warm = at >= at[0] + WARM_UP * (at[-1] - at[0])
    at, found = at[warm], found[warm]
    blocks = [part for part in np.array_split(np.arange(len(at)), _BLOCKS) if len(part)]
    x = np.array([at[part].mean() for part in blocks])
    y = np.array([np.median(found[part]) for part in blocks])
    if len(blocks) < 3:
        return Slope(an_hour=0.0, low=-np.inf, high=np.inf, first=float(y[0]), last=float(y[-1]))
    middle, _, low, high = theilslopes(y, x / _HOUR_S, 0.95)
    return Slope(
        an_hour=float(middle), low=float(low), high=float(high), first=float(y[0]), last=float(y[-1])
    )
