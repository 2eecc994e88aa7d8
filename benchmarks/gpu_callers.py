"""Who asks a server: processes of their own, as one would be slower than a server on a GPU. Without torch."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.pictures import jpeg
from serving.client.blocking import Client

IN_FLIGHT, CALLERS = 64, 4
"""Requests on their way, and the processes that send them."""
TIMEOUT_S = 600


@contextmanager
def callers(address: str, adapters: Sequence[str], task: str) -> Iterator[Callable[[int], None]]:
    """Sends so many requests of one JPEG each, `IN_FLIGHT` at a time, and waits for all answers."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        CALLERS, mp_context=fresh, initializer=_connect, initargs=(address, adapters, task)
    ) as processes:

        def send(requests: int) -> None:
            list(processes.map(_send, [requests // CALLERS] * CALLERS))

        yield send


_ask: Callable[[int], None]


def _connect(address: str, adapters: Sequence[str], task: str) -> None:
    """Prepares a process that sends."""
    global _ask
    client = Client(address, timeout_s=TIMEOUT_S)
    jpegs = [jpeg(seed) for seed in range(IN_FLIGHT // CALLERS)]

    def ask(number: int) -> None:
        route = adapters[number % len(adapters)]
        reply = client.classify([jpegs[number % len(jpegs)]], route=route, task=task)
        assert not reply.results[0].error.code, reply.results[0].error.message

    _ask = ask


def _send(requests: int) -> None:
    with ThreadPoolExecutor(IN_FLIGHT // CALLERS) as pool:
        list(pool.map(_ask, range(requests)))
