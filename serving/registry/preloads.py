"""Preloads: loads that no request waits for, one at a time, with pauses while answers are waited for.

A load takes as much of Python as a small forward does; without pauses, many take a third of the pace.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PAUSE_TIMES, _LONGEST_PAUSE_S = 5.0, 1.0
"""After a preload, pause this multiple of its duration, up to so many seconds."""


class Preloads:
    """The turns of preloads. Blocking.

    Args:
        busy: Whether anybody waits for answers.

    Attributes:
        resume_at: When the pause after the latest preload is over, by the monotonic clock.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.busy, self.resume_at = busy, 0.0
        self._turn = threading.Lock()

    @property
    def under_way(self) -> bool:
        """Whether one loads or pauses."""
        return self._turn.locked()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for other preloads and for the pause after the latest; the context is the load."""
        with self._turn:
            while (left := self.resume_at - time.monotonic()) > 0 and self.busy():
                time.sleep(min(left, 0.01))
            started = time.monotonic()
            try:
                yield
            finally:
                now = time.monotonic()
                self.resume_at = now + min(_PAUSE_TIMES * (now - started), _LONGEST_PAUSE_S)
