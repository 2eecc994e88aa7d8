"""What the server costs beside its forwards: gRPC with JPEGs against the bare engine on decoded tensors.

    python -m benchmarks.serve --quick

ViT-S/16 at 224 px, images of 500 x 375 pixels taking turns over eight LoRA adapters, 32 requests in
flight, one image each. Two processes with equally many threads take turns: `corolla serve`, measured from
outside, and one that runs the forwards alone, in as many batches of as many rows as the server just did.

served_over_inprocess: CPU seconds of the process for an image, bare engine over server; 1 is a free server.
top1_agreement: share of the images whose top class over gRPC is that of fp32 in process, from the same JPEGs:
ten random textures, with a head fitted to tell them apart. top1_accuracy: how often fp32 is right on them.
To reach: served_over_inprocess and served_over_inprocess_bf16 0.93, top1_agreement_bf16 0.997.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.table import Table

from benchmarks import agreement, precisions
from benchmarks.adapters import backbone
from benchmarks.agreement import Shown
from benchmarks.interleave import Costs, costs, speed
from benchmarks.pictures import jpeg
from benchmarks.processes import Corolla, corolla
from benchmarks.report import Figures, Value, emit, parser, progress, stop_on_terminate
from benchmarks.stores import TASK, Shelf, shelf
from benchmarks.traffic import IN_FLIGHT, ask_all
from model_store.routes.text import parse_route
from petl_vit.precision import Precision
from serving.client.blocking import Client
from serving.engine.engine import Job
from serving.service import Service

ADAPTERS = 8
SERVED, BARE = "gRPC, JPEG", "engine alone"
_BATCHES = "corolla_batch_rows_count"


class Phases:
    """A phase of each kind; the bare one repeats the batches of the last served one.

    Args:
        ask: Sends the image of a number and waits for its answer.
        forwards: CPU seconds of batches of so many rows.
    """

    def __init__(
        self,
        server: Corolla,
        ask: Callable[[int], object],
        forwards: Callable[[Sequence[int]], float],
        requests: int,
    ) -> None:
        self._server, self._forwards, self._requests = server, forwards, requests
        self._ask = ask
        self.batches = [1] * requests

    def served(self) -> float:
        """CPU seconds of the server for an image."""
        batches, before = self._server.value(_BATCHES), self._server.tree.cpu_seconds()
        ask_all(self._ask, range(self._requests))
        taken = self._server.tree.cpu_seconds() - before
        self.batches = shared(self._requests, int(self._server.value(_BATCHES) - batches))
        return taken / self._requests

    def bare(self) -> float:
        """CPU seconds of the forwards alone for an image."""
        return self._forwards(self.batches) / self._requests


def shared(rows: int, batches: int) -> list[int]:
    """So many rows in so many batches, as evenly as can be."""
    return [rows // batches + (number < rows % batches) for number in range(batches)]


def _asking(client: Client, found: Shelf) -> Callable[[int], object]:
    jpegs = [jpeg(seed) for seed in range(IN_FLIGHT)]

    def ask(number: int) -> None:
        route = found.adapters[number % len(found.adapters)]
        reply = client.classify([jpegs[number % len(jpegs)]], route=route, task=TASK)
        assert not reply.results[0].error.code, reply.results[0].error.message

    return ask


# The process that only runs forwards

_forward: Callable[[int], object]


@contextmanager
def engine_alone(
    found: Shelf, precision: Precision, threads: int
) -> Iterator[Callable[[Sequence[int]], float]]:
    """A fresh process that runs batches through a server's engine and says what CPU time they took."""
    fresh = multiprocessing.get_context("spawn")
    given = (found, precision, threads)
    with ProcessPoolExecutor(1, mp_context=fresh, initializer=_prepare, initargs=given) as process:
        yield lambda batches: process.submit(_run, list(batches)).result()


def _prepare(found: Shelf, precision: Precision, threads: int) -> None:
    global _forward
    size = found.preprocess.image_size
    service = Service(found.settings(precision=precision.value, threads=threads))
    plans = [service.catalog.plan(TASK, parse_route(name), extrapolate=False) for name in found.adapters]
    models = [service.adapter_cache.models(plan.resolved) for plan in plans]
    images = torch.randn(IN_FLIGHT, 3, size, size)
    thread = ThreadPoolExecutor(1)  # memory is managed otherwise in a process's first thread

    def forward(rows: int) -> object:
        jobs = [Job(image=images[i], models=models[i % len(models)]) for i in range(rows)]
        return thread.submit(service.engine.run, jobs).result()

    _forward = forward


def _run(batches: list[int]) -> float:
    started = time.process_time()
    for rows in batches:
        _forward(rows)
    return time.process_time() - started


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a server did in one precision.

    Attributes:
        taken: CPU seconds for an image.
        rows: Of a batch.
        agreed: The share of images with the top class of fp32 in process.
    """

    taken: Costs
    rows: float
    agreed: float


def measure(found: Shelf, shown: Shown, precision: Precision, *, requests: int, rounds: int) -> Measured:
    """Starts a server and the process beside it."""
    threads = torch.get_num_threads()
    with (
        corolla(found, "--precision", precision.value, "--threads", str(threads)) as server,
        Client(server.address, timeout_s=600) as client,
        engine_alone(found, precision, threads) as forwards,
    ):
        phases = Phases(server, _asking(client, found), forwards, requests)
        variants = {SERVED: phases.served, BARE: phases.bare}
        taken = costs(variants, rounds=rounds, warmup=1, progress=progress)
        rows = requests / len(phases.batches)
        progress(f"{precision}: top classes of {len(shown.jpegs)} images")
        return Measured(taken=taken, rows=rows, agreed=agreement.share(client, found, shown))


def figures(measured: Measured) -> Figures:
    """The keys of one precision."""
    return {
        "served_over_inprocess": speed(measured.taken, SERVED, BARE),
        "top1_agreement": measured.agreed,
        "served_ms": 1000 * statistics.median(measured.taken[SERVED]),
        "inprocess_ms": 1000 * statistics.median(measured.taken[BARE]),
        "rows_of_a_batch": measured.rows,
    }


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--requests", type=int, default=64, help="of one phase")
    flags.add_argument("--images", type=int, help="whose top classes are compared")
    flags.add_argument("--rounds", type=int)
    asked = flags.parse_args(given)
    rounds = asked.rounds or (4 if asked.quick else 20)
    vit, _ = backbone(asked.architecture, asked.image_size)
    progress("answering in process, in fp32")
    head, shown = agreement.prepared(vit, asked.images or (340 if asked.quick else 1000))
    found, tables = {}, []
    with shelf(vit, ["lora"], ADAPTERS, head=head) as store:
        for precision in precisions.chosen(asked.precision):
            measured = measure(store, shown, precision, requests=asked.requests, rounds=rounds)
            found[precision] = figures(measured)
            title = f"{asked.architecture}, {asked.image_size} px, {precision}"
            table = Table("process", "CPU ms an image (median)", "speed / alone", title=title)
            for name, seconds in measured.taken.items():
                median = 1000 * statistics.median(seconds)
                table.add_row(name, f"{median:.1f}", str(speed(measured.taken, name, BARE)))
            tables.append(table)
    asked_for: dict[str, Value] = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "quick": asked.quick,
        "in_flight": IN_FLIGHT,
        "images": len(shown.jpegs),
        "top1_accuracy": shown.accuracy,
    }
    emit("serve", tables, asked_for | precisions.figures(found), packages=("grpcio",))


if __name__ == "__main__":
    stop_on_terminate()
    main()
