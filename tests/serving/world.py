"""A small world for the serving tests: a real store of a tiny random backbone, and servers over it.

Three tasks: `shapes`, `reordered` with the same classes in another order, `colours` with others. Every
registered method has an adapter in `shapes`; `lora` has two versions there, and adapters in the others.
"""

import asyncio
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry

from model_store.format.records import (
    BackboneRecord,
    Cascade,
    CascadeMeasured,
    Draft,
    Manifest,
    NamedRoute,
    TaskRecord,
    TaskSpec,
)
from model_store.resolution import named_route
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.backbone import BackboneConfig
from petl_vit.cascade import Score, Stage
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.vit import FrozenViT
from serving.client.blocking import Client
from serving.metrics.events import Metrics
from serving.server import Server
from serving.settings import Settings
from tests.waiting import WAIT_S
from tests.waiting import until as until  # where most tests look for it

SIZE = 32
HALF = (0.5, 0.5, 0.5)
CONFIG = BackboneConfig(
    architecture="vit_tiny_patch16_224",
    options={"depth": 2, "embed_dim": 48},
    image_size=SIZE,
    mean=HALF,
    std=HALF,
)
PREPROCESS = Preprocess(image_size=SIZE, mean=HALF, std=HALF)
SHAPES = ("circle", "square", "star")
REORDERED = ("star", "circle", "square")
COLOURS = ("red", "green")
DEADLINE_S = 2.0
"""Of calls that are to expire: long enough to arrive on a busy machine first."""


def adapter_name(method: str) -> str:
    return method.replace("_", "-")


METHODS = tuple(adapter_name(method) for method in methods.names())


@cache
def backbone_tensors(seed: int) -> Mapping[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        keywords: dict[str, Any] = dict(CONFIG.options)
        model = timm.create_model(CONFIG.architecture, num_classes=0, img_size=SIZE, **keywords)
        # Random weights alone answer every image alike; larger ones tell them apart.
        return MappingProxyType({name: tensor.detach() * 2 for name, tensor in model.state_dict().items()})


@cache
def backbone() -> FrozenViT:
    """That of all worlds."""
    return FrozenViT(CONFIG, backbone_tensors(0), image_size=SIZE)


class World:
    """A store with something of everything in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(str(folder))

    @classmethod
    def make(cls, folder: Path) -> Self:
        world = cls(folder)
        record = world.store.backbones.put("tiny", CONFIG, backbone_tensors(0), "random")
        for task, classes in (("shapes", SHAPES), ("reordered", REORDERED), ("colours", COLOURS)):
            world.put_task(task, classes, record)
            world.publish(task, "lora", seed=1)
        for number, method in enumerate(methods.names()):
            world.publish("shapes", method, seed=10 + number)
        world.store.adapters.set_alias("shapes", "lora", "prod", 1)
        world.put_route("best", "lora, ssf, 0.5*bitfit", temperature=2.0)
        return world

    @property
    def backbone(self) -> BackboneRecord:
        return self.store.backbones.get("tiny")

    def put_task(self, task: str, classes: Sequence[str], backbone: BackboneRecord) -> TaskRecord:
        spec = TaskSpec.of(name=task, classes=classes, preprocess=PREPROCESS, backbone_digest=backbone.digest)
        generator = torch.Generator().manual_seed(len(task))
        return self.store.tasks.put(spec, LinearHead.init(len(classes), 48, generator).tensors())

    def publish(
        self,
        task: str,
        method: str,
        *,
        seed: int,
        name: str | None = None,
        settings: Mapping[str, object] = MappingProxyType({}),
        change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
    ) -> Manifest:
        """An adapter with random tensors, none of them zero; `change` may alter them."""
        record = self.store.tasks.get(task, self.backbone.digest)
        config = methods.get(method).configure(settings)
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: value.float() + 0.2 * torch.randn(value.shape, generator=generator)
            for key, value in config.init(backbone(), generator).items()
        }
        change(tensors)
        head = LinearHead.init(len(record.spec.classes), 48, generator).tensors()
        draft = Draft.of(
            task=task,
            name=name or adapter_name(method),
            method=method,
            config=config.model_dump(mode="json"),
            backbone_digest=record.spec.backbone_digest,
            task_digest=record.digest,
            temperature=1.5,
        )
        return self.store.adapters.publish(draft, tensors | head)

    def put_route(self, name: str, text: str, *, task: str = "shapes", temperature: float = 1.0) -> None:
        route = NamedRoute.of(task=task, name=name, route=text, temperature=temperature)
        self.store.routes.put(route)

    def put_cascade(
        self,
        name: str,
        text: str,
        thresholds: Sequence[float],
        *,
        score: Score = Score.CONFIDENCE,
        order: Sequence[int] | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> Cascade:
        """A named cascade with thresholds for what its members are now."""
        naming = named_route.check(self.store, task="shapes", name=name, text=text, extrapolate=True)
        count = len(thresholds) + 1
        each = zip((*thresholds, None), temperatures or [1.0] * count, strict=True)
        stages = [Stage(threshold=threshold, temperature=temperature) for threshold, temperature in each]
        loss = naming.route.parsed().loss
        assert loss is not None
        cascade = Cascade(
            score=score,
            order=tuple(order or range(count)),
            stages=tuple(stages),
            loss=loss,
            measured=CascadeMeasured(accuracy_loss=0.0, cost=1.5, images=100, data="0" * 64, folds=5),
        )
        fields = dict(naming.route) | {"cascade": cascade, "temperature": stages[-1].temperature}
        self.store.routes.put(NamedRoute.of(**fields))
        return cascade

    def resolve(self, text: str, task: str = "shapes") -> ResolvedRoute:
        return resolve(
            parse_route(text),
            task=task,
            store=self.store,
            backbone_digest=self.backbone.digest,
            extrapolate=True,
        )

    def adapter_file(self, task: str, name: str, version: int) -> Path:
        return self.folder / "adapters" / task / name / str(version) / "adapter.safetensors"

    def settings(self, **changes: object) -> Settings:
        """Of a server on the CPU in fp32, whatever the machine has, unless `changes` says otherwise."""
        key = str(self.folder.parent / "prediction.key")
        chosen: dict[str, object] = {
            "store": str(self.folder),
            "port": 0,
            "metrics_port": 0,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "prediction_key_file": key,
            "domains": "studio,street",
            "frozen_share": 0.0,
        }
        return Settings(**(chosen | changes))  # type: ignore[arg-type]


def pixels(seed: int = 0, size: tuple[int, int] = (40, 36)) -> NDArray[np.uint8]:
    """Noise [H, W, 3] over a random colour, so that images differ."""
    generator = np.random.default_rng(seed)
    colour = generator.integers(0, 256, 3)
    noise = generator.integers(-60, 60, (*size, 3))
    return (colour + noise).clip(0, 255).astype(np.uint8)


def encoded(seed: int = 0, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(seed)).save(out, kind)
    return out.getvalue()


def new_metrics() -> Metrics:
    return Metrics(CollectorRegistry())


class Running:
    """A server in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.server = Server(settings)
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="server")

    @property
    def address(self) -> str:
        server = self.server
        return f"127.0.0.1:{server.port}" if server.settings.socket is None else server.address

    def client(self, **options: Any) -> Client:
        return Client(self.address, **({"timeout_s": WAIT_S} | options))

    def value(self, name: str, **labels: str) -> float:
        """One sample of the metrics, 0 where there is none."""
        return self.server.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def hold_engine(self) -> threading.Event:
        """Keeps the engine busy until the returned event is set."""
        release, held = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            release.wait(WAIT_S)

        self.server.service.engine_thread.submit(hold)
        assert held.wait(WAIT_S)
        return release

    def stop(self) -> None:
        """Asks it to stop; it may have done so by itself."""
        assert self._loop is not None
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self.server.stop)

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the server did not stop"
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S), "the server did not start"
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        running = asyncio.create_task(self.server.run(ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if ready.is_set():  # else its error is not known yet
            self._ready.set()
        await running
