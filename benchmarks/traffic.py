"""A closed loop of callers: so many requests always on their way."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Request = TypeVar("Request")

IN_FLIGHT = 32


class Callers:
    """Threads that send requests and wait for the answers.

    Args:
        send: Sends one and waits; raises when it failed. Safe in threads.
    """

    def __init__(self, send: Callable[[Request], object], *, in_flight: int = IN_FLIGHT) -> None:
        self._send = send
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="caller")

    def ask(self, requests: Iterable[Request]) -> list[float]:
        """Sends all of them; the latency of each, seconds."""
        return list(self._pool.map(self._timed, requests))

    def _timed(self, request: Request) -> float:
        started = time.monotonic()
        self._send(request)
        return time.monotonic() - started
