"""A machine in fixed parts: servers run in slices of time that nobody else may use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from threading import Event, Thread
from typing import Protocol

SLICE_S = 0.02


class Suspendable(Protocol):
    """What can be kept from running; see `benchmarks.processes.Tree`."""

    def suspend(self) -> None: ...

    def resume(self) -> None: ...


@contextmanager
def sliced(servers: Sequence[Suspendable], cores: int, slice_s: float = SLICE_S) -> Iterator[None]:
    """While the block lasts, as many servers as there are cores run at a time, for a slice, then the next.

    So each has an equal part of the machine, which it cannot lend to others and cannot exceed. Afterwards all
    run freely.
    """
    parts = [servers[i : i + cores] for i in range(0, len(servers), cores)]
    over = Event()

    def take_turns() -> None:
        for part in cycle(parts):
            for server in part:
                server.resume()
            if over.wait(slice_s):
                return
            for server in part:
                server.suspend()

    if len(parts) < 2:
        yield
        return
    for server in servers:
        server.suspend()
    turns = Thread(target=take_turns, name="slices", daemon=True)
    turns.start()
    try:
        yield
    finally:
        over.set()
        turns.join()
        for server in servers:
            server.resume()
