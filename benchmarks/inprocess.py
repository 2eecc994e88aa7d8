"""A `Service` in this process, without ports: names, adapter cache, batcher, engine, combine."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from benchmarks.stores import TASK
from model_store.routes.algebra import Route
from model_store.routes.text import parse_route
from serving.request import Request
from serving.service import Service
from serving.settings import Settings

IN_FLIGHT = 32


class InProcess:
    """A running service and a closed loop of callers, on one event loop that runs only while it is asked."""

    def __init__(
        self, runner: asyncio.Runner, service: Service, images: Sequence[NDArray[np.float32]]
    ) -> None:
        self._runner, self._service, self._images = runner, service, images

    def ask(self, names: Sequence[str]) -> None:
        """One image under each adapter, as many requests at a time as there are images."""
        self._runner.run(self._ask(names))

    def classify(self, task: str, route: str, at_once: int) -> None:
        """Every image under one route, in requests of so many images, all at the same time."""
        self._runner.run(self._classify(task, parse_route(route), at_once))

    def load(self, names: Sequence[str]) -> None:
        """Brings adapters into memory and into slots, as far as they fit."""
        for name in names:
            plan = self._service.catalog.plan(TASK, parse_route(name), extrapolate=False)
            for term in plan.resolved.terms():
                self._service.adapter_cache.load(term)

    @property
    def registered_bytes(self) -> int:
        """What the server's gauge says that its adapters take."""
        return int(self._service.metrics.registry.get_sample_value("corolla_registered_bytes") or 0)

    @property
    def backbone_bytes(self) -> int:
        """What the backbone's parameters take."""
        return self._service.loader.backbone_bytes

    async def _ask(self, names: Sequence[str]) -> None:
        waiting = iter(list(zip(names, cycle(self._images), strict=False)))

        async def caller() -> None:
            for name, image in waiting:
                request = Request(task=TASK, route=parse_route(name), images=[image])
                (answer,) = await self._service.classifier.classify(request, lambda said: said.images)
                if isinstance(answer, Exception):
                    raise answer

        async with asyncio.TaskGroup() as group:
            for _ in self._images:
                group.create_task(caller())

    async def _classify(self, task: str, route: Route, at_once: int) -> None:
        parts = [self._images[i : i + at_once] for i in range(0, len(self._images), at_once)]
        async with asyncio.TaskGroup() as group:
            for images in parts:
                request = Request(task=task, route=route, images=images)
                group.create_task(self._answered(request))

    async def _answered(self, request: Request) -> None:
        for answer in await self._service.classifier.classify(request, lambda said: said.images):
            if isinstance(answer, Exception):
                raise answer


@contextmanager
def in_process(
    settings: Settings,
    image_size: int,
    *,
    in_flight: int = IN_FLIGHT,
    images: Sequence[NDArray[np.float32]] | None = None,
) -> Iterator[InProcess]:
    """A service that runs until the block ends.

    Args:
        images: Preprocessed, [3, S, S] each; None is as many random ones as are in flight.
    """
    generator = np.random.default_rng(0)
    if images is None:
        shape = (3, image_size, image_size)
        images = [generator.standard_normal(shape, np.float32) for _ in range(in_flight)]
    service = Service(settings)
    with asyncio.Runner() as runner:
        try:
            runner.run(_started(service))
            yield InProcess(runner, service, images)
        finally:
            runner.run(service.drain())
            service.close()


async def _started(service: Service) -> None:
    service.start()
    await service.warm()
