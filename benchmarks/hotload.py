"""What it costs to use an adapter for the first time, and what loading costs everybody else.

    python -m benchmarks.hotload --quick

Over real gRPC, ViT-S/16 and LoRA r=8 adapters that are in the store. First answers: each adapter is asked for
once before it was ever loaded and once right after, one request at a time. Loading: four callers keep
asking for adapters in memory, through quiet windows and through windows in which 20 others are loaded and
unloaded by the admin service, in turns: each is asked for as soon as the last is done, while the server
pauses by itself between loads that no request waits for.

added_p50_ms: median of first answer minus warm answer, at 224 px. other_p95_over_quiet: the 95th percentile
of the other callers' latency while adapters come and go over that in quiet, at 64 px, where answers take
least; its spread is that of the windows. To reach, in fp32 and bf16: added_p50_ms 10 at most,
other_p95_over_quiet 1.5 at most.
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

from benchmarks import precisions
from benchmarks.adapters import backbone
from benchmarks.estimate import Estimate, half_range
from benchmarks.pictures import jpeg
from benchmarks.processes import corolla
from benchmarks.report import Figures, Value, emit, parser, progress, stop_on_terminate
from benchmarks.stores import TASK, Shelf, shelf
from petl_vit.precision import Precision
from serving.client.admin import AdminClient
from serving.client.blocking import Client

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
def running(architecture: str, image_size: int, adapters: int, precision: Precision) -> Iterator[Server]:
    """A server that has loaded nothing yet."""
    vit, _ = backbone(architecture, image_size)
    image = jpeg(0)
    with ExitStack() as stack:
        progress(f"{precision}: {image_size} px: writing {adapters} adapters")
        found = stack.enter_context(shelf(vit, ["lora"], adapters))
        server = stack.enter_context(corolla(found, "--precision", precision.value))
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
    """Of the other callers, seconds, window by window; and how long a load and an unload took."""

    quiet: list[list[float]]
    busy: list[list[float]]
    cycles: list[float]

    def ratio(self, percent: float) -> Estimate:
        """A percentile of all windows with loads over that of all quiet ones."""
        windows = [
            percentile(b, percent) / percentile(q, percent)
            for b, q in zip(self.busy, self.quiet, strict=True)
        ]
        value = percentile(flat(self.busy), percent) / percentile(flat(self.quiet), percent)
        return Estimate(value=value, spread=half_range(windows))


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
    quiet, busy = list[list[float]](), list[list[float]]()
    for number in range(windows):
        progress(f"window {number + 1} of {windows}")
        busy.append(others.during(come_and_go))
        quiet.append(others.during(lambda: time.sleep(sum(cycles[-CYCLES:]))))
    return Latencies(quiet=quiet, busy=busy, cycles=cycles)


def flat(windows: Sequence[Sequence[float]]) -> list[float]:
    return [latency for window in windows for latency in window]


def percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """In one precision: first answers minus warm ones, seconds, at both sizes; and the other callers'."""

    added: list[float]
    added_small: list[float]
    others: Latencies

    def figures(self) -> Figures:
        """The keys."""
        others = self.others
        return {
            "added_p50_ms": Estimate.of([1000 * seconds for seconds in self.added]),
            "added_p50_ms_64px": Estimate.of([1000 * seconds for seconds in self.added_small]),
            "other_p95_over_quiet": others.ratio(95),
            "other_p50_over_quiet": others.ratio(50),
            "cycle_p50_ms": 1000 * statistics.median(others.cycles),
            "first_answers": len(self.added),
            "cycles": len(others.cycles),
            "other_requests": {"quiet": len(flat(others.quiet)), "busy": len(flat(others.busy))},
        }

    def table(self, title: str) -> Table:
        """What was measured, and the spread of its rounds."""
        quiet, busy = flat(self.others.quiet), flat(self.others.busy)
        rounds = {
            "first answer - warm, p50": self.added,
            "the same at 64 px": self.added_small,
            "load and unload, p50": self.others.cycles,
            "others in quiet, p50": quiet,
            "others while loading, p50": busy,
        }
        shown = Table("latency", "ms", title=title)
        for name, latencies in rounds.items():
            shown.add_row(name, str(Estimate.of([1000 * seconds for seconds in latencies])))
        shown.add_row("others in quiet, p95", f"{1000 * percentile(quiet, 95):.3f}")
        shown.add_row("others while loading, p95", f"{1000 * percentile(busy, 95):.3f}")
        shown.add_row("p95 while loading / in quiet", str(self.others.ratio(95)))
        return shown


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224, help="of the first answers")
    flags.add_argument("--small-image-size", type=int, default=64, help="of the others while loading")
    flags.add_argument("--adapters", type=int, help="that are asked for a first time")
    flags.add_argument("--windows", type=int, help=f"of {CYCLES} loads and unloads")
    asked = flags.parse_args(given)
    adapters = asked.adapters or (20 if asked.quick else 60)
    windows = asked.windows or (4 if asked.quick else 10)
    found, tables = {}, []
    for precision in precisions.chosen(asked.precision):
        with running(asked.architecture, asked.image_size, adapters + 1, precision) as server:
            added = first_answers(server, server.found.adapters)
        with running(asked.architecture, asked.small_image_size, adapters + 1, precision) as server:
            added_small = first_answers(server, server.found.adapters)
            others = while_loading(server, windows)
        measured = Measured(added=added, added_small=added_small, others=others)
        found[precision] = measured.figures()
        tables.append(measured.table(f"{asked.architecture}, LoRA r=8, {precision}"))
    asked_for: dict[str, Value] = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "quick": asked.quick,
    }
    emit("hotload", tables, asked_for | precisions.figures(found), packages=("grpcio",))


if __name__ == "__main__":
    stop_on_terminate()
    main()
