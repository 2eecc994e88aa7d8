"""A closed loop of callers: so many requests always on their way."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

IN_FLIGHT = 32


def ask_all(send: Callable[[int], object], requests: Iterable[int]) -> list[float]:
    """Sends the requests of these numbers, `IN_FLIGHT` at a time; the latency of each, seconds.

    Args:
        send: Sends one and waits; raises when it failed. Safe in threads.
    """

    def timed(request: int) -> float:
        started = time.monotonic()
        send(request)
        return time.monotonic() - started

    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="caller") as pool:
        return list(pool.map(timed, requests))
