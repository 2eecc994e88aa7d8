"""A server that is killed while clients send it labels: those it has acknowledged are kept and counted."""

import asyncio
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from benchmarks.kill.operation import Event, Found, Operation, Say, acknowledged
from benchmarks.kill.world import SIZE, TASK, World, adapter, look, make
from serving.client.blocking import Client
from serving.client.labels import status_name
from serving.client.messages import RequestFailed
from serving.server import Server
from serving.settings import Settings

_IMAGES, _LABELS = 50, 5
_WAIT_S = 120.0
_GONE = ("UNAVAILABLE", "CANCELLED", "UNKNOWN")


def _prepare(folder: Path) -> None:
    world = make(folder)
    world.store.adapters.publish(world.draft("lora"), adapter(world.vit, 1))


def _settings(folder: Path) -> Settings:
    return Settings(
        store=str(folder / "store"),
        port=0,
        metrics_port=0,
        device="cpu",
        precision="fp32",
        threads=1,
        prediction_key_file=str(folder / "key"),
        labels=str(folder / "labels.db"),
        replica="replica-0",
    )


def _serve(folder: Path, chance: Random, say: Say) -> None:
    server = Server(_settings(folder))
    asyncio.run(_run(server, lambda: say("ready", f"127.0.0.1:{server.port}")))


async def _run(server: Server, ready: Callable[[], object]) -> None:
    started = asyncio.Event()
    running = asyncio.create_task(server.run(started))
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if started.is_set():
        ready()
    await running


def _send(address: str, say: Say) -> None:
    """Asks, and sends the true classes of the answers until the server is gone."""
    with Client(address, timeout_s=_WAIT_S) as client:
        try:
            while True:
                results = client.classify(
                    [_image(i) for i in range(_IMAGES)], route="lora", task=TASK
                ).results
                ids = [result.prediction_id for result in results]
                for first in range(0, _IMAGES, _LABELS):
                    labelled = ids[first : first + _LABELS]
                    say("begun", *labelled)
                    client.feedback([(prediction, "star") for prediction in labelled])
                    say("done", *labelled)
        except RequestFailed as error:
            if error.code not in _GONE:
                raise


def _check(folder: Path, told: Sequence[Event]) -> Found:
    found = look(World(folder))
    kept = [str(prediction) for call in acknowledged(told) for prediction in call]
    begun = [str(prediction) for event in told[-1:] if event.kind == "begun" for prediction in event.facts]
    with (
        _serving(_settings(folder)) as server,
        Client(f"127.0.0.1:{server.port}", timeout_s=_WAIT_S) as client,
    ):
        again = client.feedback([(prediction, "star") for prediction in kept]).results
        rest = client.feedback([(prediction, "star") for prediction in begun]).results
        counted = _counted(server)
    lost = [status_name(result) for result in again if status_name(result) != "duplicate"]
    found.expect(not lost, f"{len(lost)} of {len(kept)} labels were not kept: {lost[:3]}")
    whole = {status_name(result) for result in rest}
    found.expect_whole(len(whole) <= 1, f"a call was kept in part: {sorted(whole)}")
    there = len(kept) + len(begun)
    found.expect_whole(counted == there, f"{there} labels are kept, and {counted:.0f} are counted")
    return found


def _counted(server: Server) -> float:
    """First labels of predictions, as the metrics show them."""
    return sum(
        sample.value
        for metric in server.service.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "corolla_feedback_total"
    )


@contextmanager
def _serving(settings: Settings) -> Iterator[Server]:
    """A server in a thread of its own."""
    server, ready, loops = Server(settings), threading.Event(), list[asyncio.AbstractEventLoop]()

    def begin() -> None:
        loops.append(asyncio.get_running_loop())
        ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(_run(server, begin)))
    thread.start()
    if not ready.wait(_WAIT_S):
        raise RuntimeError("the server does not start again")
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(server.stop)
        thread.join()


def _image(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


FEEDBACK = Operation(name="feedback", prepare=_prepare, work=_serve, check=_check, drive=_send)
