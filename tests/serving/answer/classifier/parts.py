"""The classifier with a real store, cache and engine, without gRPC."""

import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import torch

from model_store.format.records import BackboneRecord, TaskRecord
from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Row
from petl_vit.heads import Head
from petl_vit.slots import Slots
from serving.answer.classifier import Classifier
from serving.answer.frozen import FrozenShare
from serving.engine.backend import TorchBackend
from serving.engine.batcher import Batcher
from serving.engine.engine import Engine, Job, Logits
from serving.metrics.prediction_ids import PredictionIds
from serving.metrics.recorder import Recorder
from serving.registry.adapter_cache import AdapterCache
from serving.registry.catalog import Catalog
from serving.request import ImageAnswer, Request, Response
from tests.serving.world import (
    SIZE,
    WAIT_S,
    World,
    new_metrics,
)

PREDICTION_IDS = PredictionIds(b"k" * 32)


class HeldLoader(Loader):
    """A real loader that can be held up at one adapter."""

    def __init__(self, store: Store, record: BackboneRecord) -> None:
        super().__init__(store, record)
        self.loads: list[str] = []
        self.held: dict[str, threading.Event] = {}

    def adapter(self, term: ResolvedTerm) -> Adapter:
        self.loads.append(term.label)
        if (go := self.held.get(term.label)) is not None:
            assert go.wait(WAIT_S)
        return super().adapter(term)


class Parts:
    """A classifier and what it stands on."""

    def __init__(
        self,
        world: World,
        run: Any = None,
        cascade_full_share: float = 0.0,
        frozen_share: float = 0.0,
        base_head: Callable[[TaskRecord], Head] | None = None,
    ) -> None:
        self.metrics = new_metrics()
        self.loader = HeldLoader(world.store, world.backbone)
        self.slots = Slots()
        self.engine = Engine(
            TorchBackend(self.loader.vit, self.slots), slots=self.slots, metrics=self.metrics
        )
        self.cache = AdapterCache(self.loader, slots=self.slots, max_bytes=2**30, metrics=self.metrics)
        self.catalog = Catalog(world.store, world.backbone.digest)
        self.pool = ThreadPoolExecutor(2)
        self.batcher: Batcher[Job, Logits] = Batcher(
            run or self.engine.run,
            executor=self.pool,
            max_batch_rows=8,
            max_queue_rows=100,
            max_queue_bytes=2**30,
            metrics=self.metrics,
        )
        self.classifier = Classifier(
            catalog=self.catalog,
            cache=self.cache,
            batcher=self.batcher,
            recorder=Recorder(self.metrics, PREDICTION_IDS),
            pool=self.pool,
            max_images=8,
            max_pixels=10_000,
            cascade_full_share=cascade_full_share,
            frozen_share=FrozenShare(frozen_share, base_head or self.loader.base_head),
        )

    async def classify(self, text: str, *pictures: Any, task: str = "shapes", **options: Any) -> Response:
        request = Request(task=task, route=parse_route(text), images=pictures, **options)
        return await self.classifier.classify(request, lambda response: response)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def parts_of(world: World, run: Any = None, **settings: Any) -> AsyncIterator[Parts]:
    parts = Parts(world, run, **settings)
    parts.batcher.start()
    yield parts
    await parts.batcher.drain(5)
    parts.cache.close()
    parts.pool.shutdown()


def answers(response: Response) -> list[ImageAnswer]:
    found = [image for image in response.images if isinstance(image, ImageAnswer)]
    assert len(found) == len(response.images)
    return found


def logits(world: World, text: str, *images: torch.Tensor) -> np.ndarray[Any, Any]:
    """[n, K, C] by a forward for each row alone, as an independent reference."""
    loader, resolved = Loader(world.store, world.backbone), world.resolve(text)
    found = loader.models(resolved)
    batch = Batch(loader.vit(SIZE))
    rows = [
        [batch.logits(image[None], [Row(image=0, model=model)])[0].double().numpy() for model in found]
        for image in images
    ]
    return np.array(rows)


def softmax(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))
