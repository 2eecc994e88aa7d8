"""What goes wrong under load stays where it belongs: end to end, over real gRPC."""

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Row
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.blocking import Client
from serving.client.messages import request_of
from serving.engine.backend import Backend
from serving.server import Server
from tests.serving.world import WAIT_S, Running, World, encoded, until

QUEUED = "corolla_queue_rows"
COMPUTED = "corolla_batch_rows_sum"


class Changed:
    """A server's back end with something done before each forward."""

    def __init__(self, server: Server, before: Callable[[Sequence[Row]], None]) -> None:
        self._backend: Backend = server.service.engine.backend
        self.before = before
        self.batches: list[int] = []
        self.warm = self._backend.warm
        server.service.engine.backend = self

    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        self.batches.append(len(rows))
        self.before(rows)
        return self._backend.logits(images, rows)


class Ours(Running):
    """A server whose engine, back end and loader can be held up."""

    def __init__(self, world: World, **settings: object) -> None:
        super().__init__(world.settings(**settings))
        self.world = world

    def digest(self, text: str) -> str:
        return next(self.world.resolve(text).terms()).digest

    def change(self, before: Callable[[Sequence[Row]], None] = lambda rows: None) -> Changed:
        return Changed(self.server, before)

    def hold_load(self, label: str) -> threading.Event:
        """Keeps the loader busy with one adapter until the returned event is set."""
        go, load = threading.Event(), self.server.service.loader.adapter

        def held(term: ResolvedTerm) -> Adapter:
            if term.label == label:
                assert go.wait(WAIT_S)
            return load(term)

        self.server.service.loader.adapter = held  # type: ignore[method-assign]
        return go

    def loaded(self) -> Mapping[str, weakref.ref[Adapter]]:
        """What is loaded from now on, by digest, without keeping it in memory."""
        loaded: dict[str, weakref.ref[Adapter]] = {}
        load = self.server.service.loader.adapter

        def noted(term: ResolvedTerm) -> Adapter:
            adapter = load(term)
            loaded[term.digest] = weakref.ref(adapter)
            return adapter

        self.server.service.loader.adapter = noted  # type: ignore[method-assign]
        return loaded

    def registered_bytes(self, text: str) -> int:
        """Of an adapter in memory."""
        residents = {r.digest: r for r in self.server.service.adapter_cache.residents()}
        return residents[self.digest(text)].registered_bytes

    def dropped(self, reason: str) -> float:
        return self.value("corolla_queue_dropped_total", reason=reason)


def request(route: str, seed: int = 0, **options: Any) -> Any:
    return request_of([encoded(seed)], route=route, task="shapes", probabilities=True, **options)


def ask(client: Client, route: str, seed: int = 0) -> list[float]:
    """The probabilities of one image."""
    (result,) = client.send(request(route, seed)).results
    assert not result.error.message, result.error
    return list(result.probabilities)


def later(client: Client, route: str, seed: int = 0, *, timeout_s: float = WAIT_S) -> Any:
    """A call on its way."""
    return ClassifierStub(client.channel).Classify.future(request(route, seed), timeout=timeout_s)


def probabilities(call: Any) -> list[float]:
    (result,) = call.result(WAIT_S).results
    assert not result.error.message, result.error
    return list(result.probabilities)


def same(found: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def occupy(running: Ours, client: Client) -> tuple[threading.Event, Any]:
    """A held engine and the call that is in it, so that all others wait in the queue."""
    taken = running.value("corolla_queue_duration_seconds_count")
    release = running.hold_engine()
    call = later(client, "base")
    until(lambda: running.value("corolla_queue_duration_seconds_count") == taken + 1)
    return release, call
