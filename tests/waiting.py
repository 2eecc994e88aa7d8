"""Waiting for what other threads and processes do."""

import threading
import time
from collections.abc import Callable

WAIT_S = 300.0
"""How long a test waits for what happens at once, before it fails: on a busy machine that takes a while."""


def until(true: Callable[[], bool], *, every_s: float = 0.005) -> None:
    """Waits for what another thread or process does, and fails when it does not."""
    tick, end = threading.Event(), time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, "it did not happen"
        tick.wait(every_s)
