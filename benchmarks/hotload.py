"""What it costs to use an adapter for the first time, and what loading costs everybody else.

    python -m benchmarks.hotload --quick

Over real gRPC, ViT-S/16 and LoRA r=8 adapters that are in the store. First answers: each adapter is asked for
once before it was ever loaded and once right after, one request at a time. Loading: four callers keep
asking for adapters in memory, through quiet windows and through windows in which 20 others are loaded and
unloaded by the admin service, in turns: each is asked for as soon as the last is done, while the server
pauses by itself between loads that no request waits for.

added_p50_ms: median of first answer minus warm answer, at 224 px. other_p95_over_quiet: the 95th percentile
of the other callers' latency while adapters come and go over that in quiet, at 64 px, where answers take
least.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from threading import Event, Thread

import numpy as np
from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.pictures import jpeg
from benchmarks.processes import corolla
from benchmarks.report import emit, parser, progress, stop_on_terminate
from benchmarks.stores import TASK, Shelf, shelf
from serving.client import AdminClient, Client

OTHERS = 4
"""Callers, each with an adapter of its own."""
CYCLES = 20
"""Of one window."""

Ask = Callable[[str], object]
"""Sends an image under an adapter and waits for the answer."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server over a store, and two ways to talk to it."""

    found: Shelf
    ask: Ask
    admin: AdminClient


@contextmanager
def running(architecture: str, image_size: int, adapters: int) -> Iterator[Server]:
    """A server that has loaded nothing yet."""
    vit, _ = backbone(architecture, image_size)
    image = jpeg(0)
    with ExitStack() as stack:
        progress(f"{image_size} px: writing {adapters} adapters")
        found = stack.enter_context(shelf(vit, ["lora"], adapters))
        server = stack.enter_context(corolla(found, "--precision", "fp32"))
        client = stack.enter_context(Client(server.address, timeout_s=600))

        def ask(name: str) -> None:
            reply = client.classify([image], route=name, task=TASK)
            assert not reply.results[0].error.code, reply.results[0].error.message

        yield Server(found=found, ask=ask, admin=AdminClient(client))


def first_answers(server: Server, names: Sequence[str]) -> list[float]:
    """Seconds that the first answer under each adapter takes more than the second."""
    warm, *cold = names
    for _ in range(5):
        server.ask(warm)
    return [_seconds(server.ask, name) - _seconds(server.ask, name) for name in cold]


def _seconds(ask: Ask, name: str) -> float:
    started = time.monotonic()
    ask(name)
    return time.monotonic() - started


class Others:
    """Callers that keep asking, each for an adapter of its own."""

    def __init__(self, ask: Ask, names: Sequence[str]) -> None:
        self._ask, self._names = ask, names

    def during(self, action: Callable[[], object]) -> list[float]:
        """The latency of every request that began while something else went on, seconds."""
        latencies: list[float] = []
        over = Event()

        def keep_asking(name: str) -> None:
            while not over.is_set():
                latencies.append(_seconds(self._ask, name))

        threads = [Thread(target=keep_asking, args=(name,), daemon=True) for name in self._names]
        for thread in threads:
            thread.start()
        try:
            action()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        return latencies


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Of the other callers, seconds; and how long a load and an unload took."""

    quiet: list[float]
    busy: list[float]
    cycles: list[float]


def while_loading(server: Server, windows: int) -> Latencies:
    """Windows of `CYCLES` loads and unloads, and quiet windows of the same length, in turns."""
    own, others = server.found.adapters[OTHERS:], Others(server.ask, server.found.adapters[:OTHERS])
    names, cycles = cycle(own), list[float]()

    def come_and_go() -> None:
        for name, _ in zip(names, range(CYCLES), strict=False):
            started = time.monotonic()
            server.admin.load_adapter(name, task=TASK)
            server.admin.unload_adapter(name, task=TASK)
            cycles.append(time.monotonic() - started)

    others.during(lambda: time.sleep(1))
    quiet, busy = list[float](), list[float]()
    for number in range(windows):
        progress(f"window {number + 1} of {windows}")
        busy += others.during(come_and_go)
        quiet += others.during(lambda: time.sleep(sum(cycles[-CYCLES:])))
    return Latencies(quiet=quiet, busy=busy, cycles=cycles)


def p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95))


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224, help="of the first answers")
    flags.add_argument("--small-image-size", type=int, default=64, help="of the others while loading")
    flags.add_argument("--adapters", type=int, help="that are asked for a first time")
    flags.add_argument("--windows", type=int, help=f"of {CYCLES} loads and unloads")
    asked = flags.parse_args(given)
    adapters = asked.adapters or (20 if asked.quick else 60)
    windows = asked.windows or (4 if asked.quick else 10)
    with running(asked.architecture, asked.image_size, adapters + 1) as server:
        added = first_answers(server, server.found.adapters)
    with running(asked.architecture, asked.small_image_size, adapters + 1) as server:
        added_small = first_answers(server, server.found.adapters)
        others = while_loading(server, windows)
    rows = {
        "first answer - warm, p50": statistics.median(added),
        "the same at 64 px": statistics.median(added_small),
        "load and unload, p50": statistics.median(others.cycles),
        "others in quiet, p50": statistics.median(others.quiet),
        "others in quiet, p95": p95(others.quiet),
        "others while loading, p50": statistics.median(others.busy),
        "others while loading, p95": p95(others.busy),
    }
    table = Table("latency", "ms", title=f"{asked.architecture}, LoRA r=8")
    for name, seconds in rows.items():
        table.add_row(name, f"{1000 * seconds:.1f}")
    emit(
        "hotload",
        [table],
        {
            "architecture": asked.architecture,
            "image_size": asked.image_size,
            "quick": asked.quick,
            "added_p50_ms": 1000 * statistics.median(added),
            "added_p50_ms_64px": 1000 * statistics.median(added_small),
            "other_p95_over_quiet": p95(others.busy) / p95(others.quiet),
            "other_p50_over_quiet": statistics.median(others.busy) / statistics.median(others.quiet),
            "cycle_p50_ms": 1000 * statistics.median(others.cycles),
            "first_answers": len(added),
            "cycles": len(others.cycles),
            "other_requests": {"quiet": len(others.quiet), "busy": len(others.busy)},
        },
        packages=("grpcio",),
    )


if __name__ == "__main__":
    stop_on_terminate()
    main()
