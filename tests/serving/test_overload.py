"""What goes wrong under load stays where it belongs: end to end, over real gRPC."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status
from torch import Tensor

from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Row
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from serving.engine.backend import Backend
from serving.server import Server
from tests.serving.world import DEADLINE_S, WAIT_S, Running, World, encoded, until

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


@pytest.fixture
def ours(world: World) -> Iterator[Ours]:
    with Ours(world) as running:
        yield running


@pytest.fixture
def client(ours: Ours) -> Iterator[Client]:
    with ours.client() as client:
        yield client


def occupy(running: Ours, client: Client) -> tuple[threading.Event, Any]:
    """A held engine and the call that is in it, so that all others wait in the queue."""
    taken = running.value("corolla_queue_duration_seconds_count")
    release = running.hold_engine()
    call = later(client, "base")
    until(lambda: running.value("corolla_queue_duration_seconds_count") == taken + 1)
    return release, call


# A full queue


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"max_queue_rows": 6}, "full_rows"), ({"max_queue_bytes": 6 * 3 * 32 * 32 * 4}, "full_bytes")],
)
def test_a_full_queue_refuses_at_once_and_says_when_to_retry(
    world: World, settings: dict[str, int], reason: str
) -> None:
    with Ours(world, **settings) as running, running.client() as client:
        expected = ask(client, "lora")
        release, first = occupy(running, client)
        waiting = []
        while not running.dropped(reason):
            call = later(client, "lora")
            until(lambda call=call: call.done() or running.value(QUEUED) > len(waiting))  # type: ignore[misc]
            if not call.done():
                waiting.append(call)
        assert 1 <= len(waiting) <= 6

        with pytest.raises(RequestFailed) as caught:
            ask(client, "lora")  # while the engine is held

        assert caught.value.code == "RESOURCE_EXHAUSTED"
        error = caught.value.__cause__
        assert isinstance(error, grpc.RpcError)
        (retry,) = (
            info
            for detail in rpc_status.from_call(error).details
            if detail.Unpack(info := error_details_pb2.RetryInfo())
        )
        assert retry.retry_delay.ToMilliseconds() >= 50
        release.set()
        for call in waiting:
            same(probabilities(call), expected)
        probabilities(first)
        same(ask(client, "lora"), expected)


# Deadlines


def test_an_expired_deadline_is_never_computed(ours: Ours, client: Client) -> None:
    ask(client, "lora")
    release, first = occupy(ours, client)
    computed = ours.value(COMPUTED)
    hurried = later(client, "lora, ssf", timeout_s=DEADLINE_S)
    until(lambda: ours.value(QUEUED) == 2)
    with pytest.raises(grpc.RpcError) as caught:
        hurried.result(WAIT_S)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: ours.value(QUEUED) == 0)  # the server hears of it a moment later

    release.set()
    probabilities(first)
    ask(client, "lora")

    assert ours.value(COMPUTED) == computed + 2, "the first and the last"
    assert ours.dropped("expired") + ours.dropped("cancelled") == 1


def test_a_deadline_that_cannot_be_met_is_refused_at_once(world: World) -> None:
    with Ours(world, max_batch_rows=1) as running, running.client() as client:
        go, pace_s = threading.Event(), 0.15
        slow = running.change(lambda rows: go.wait(pace_s) and None)  # type: ignore[func-returns-value]
        for _ in range(3):
            ask(client, "lora")  # its pace is known
        pace_s = WAIT_S
        waiting = [later(client, "lora") for _ in range(60)]
        until(lambda: running.value(QUEUED) == 59)

        with pytest.raises(grpc.RpcError) as caught:  # they take nine seconds
            later(client, "lora", timeout_s=5).result(WAIT_S)

        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the deadline cannot be met" in caught.value.details(), "long before the deadline itself"
        assert running.dropped("unmeetable") == 1
        go.set()
        for call in waiting:
            probabilities(call)
        assert len(slow.batches) == 3 + 60, "the refused one was never computed"


# Callers that go away


def test_a_caller_who_goes_while_waiting_harms_nobody_and_costs_nothing(ours: Ours, client: Client) -> None:
    expected = [ask(client, "lora", seed) for seed in range(5)]
    release, first = occupy(ours, client)
    computed = ours.value(COMPUTED)
    calls = [later(client, "lora", seed) for seed in range(5)]
    until(lambda: ours.value(QUEUED) == 5)

    calls[1].cancel()
    calls[3].cancel()
    until(lambda: ours.value(QUEUED) == 3)
    release.set()

    for seed in (0, 2, 4):
        same(probabilities(calls[seed]), expected[seed])
    probabilities(first)
    assert ours.value(COMPUTED) == computed + 1 + 3
    assert ours.dropped("cancelled") == 2


def test_a_caller_who_goes_in_the_middle_of_a_forward_harms_nobody(ours: Ours, client: Client) -> None:
    expected = [ask(client, "lora", seed) for seed in range(4)]
    running, go = threading.Event(), threading.Event()

    def wait(rows: Sequence[Row]) -> None:
        if len(rows) == 4:
            running.set()
            assert go.wait(WAIT_S)

    changed = ours.change(wait)
    release, first = occupy(ours, client)
    calls = [later(client, "lora", seed) for seed in range(4)]
    until(lambda: ours.value(QUEUED) == 4)
    release.set()
    assert running.wait(WAIT_S)

    calls[2].cancel()
    until(lambda: ours.value("corolla_requests_total", method="Classify", code="CANCELLED") == 1)
    go.set()

    for seed in (0, 1, 3):
        same(probabilities(calls[seed]), expected[seed])
    probabilities(first)
    assert changed.batches == [1, 4]
    until(lambda: {resident.rows_in_use for resident in ours.server.service.adapter_cache.residents()} == {0})


# Rows that fail


def test_a_failing_row_fails_alone(ours: Ours, client: Client) -> None:
    expected = {route: ask(client, route) for route in ("lora", "ssf", "bitfit")}
    bad = ours.digest("ssf")

    def fail(rows: Sequence[Row]) -> None:
        if any(bad in row.model.digests for row in rows):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    changed = ours.change(fail)
    release, first = occupy(ours, client)
    calls = {route: later(client, route) for route in expected}
    until(lambda: ours.value(QUEUED) == 3)
    release.set()

    probabilities(first)
    for route in ("lora", "bitfit"):
        same(probabilities(calls[route]), expected[route])
    with pytest.raises(grpc.RpcError) as caught:
        calls["ssf"].result(WAIT_S)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "incident" in caught.value.details()
    assert "mat1" not in caught.value.details()
    assert changed.batches == [1, 3, 1, 1, 1]
    changed.before = lambda rows: None
    same(ask(client, "ssf"), expected["ssf"])


def test_out_of_memory_evicts_retries_smaller_and_answers_all(ours: Ours, client: Client) -> None:
    routes = ["lora", "ssf", "bitfit", "0.5*lora + 0.5*ssf", "lora, bitfit", "layernorm"]
    expected = [ask(client, route) for route in routes]
    slots: list[int] = []

    def little(rows: Sequence[Row]) -> None:
        slots.append(len(ours.server.service.slots))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    changed = ours.change(little)
    release, first = occupy(ours, client)
    calls = [later(client, route) for route in routes]
    until(lambda: ours.value(QUEUED) == 7)
    release.set()

    probabilities(first)
    for call, answer in zip(calls, expected, strict=True):
        same(probabilities(call), answer)
    assert max(changed.batches) == 7
    assert ours.value("corolla_out_of_memory_total") == sum(rows > 2 for rows in changed.batches) >= 3
    assert slots[1] >= 4
    assert slots[2] == 0, "what was idle has left its slot"


def test_an_image_that_never_fits_is_refused_alone_and_the_server_lives(ours: Ours, client: Client) -> None:
    expected = ask(client, "lora")
    heavy = ours.digest("ssf")

    def fail(rows: Sequence[Row]) -> None:
        if any(heavy in row.model.digests for row in rows):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    changed = ours.change(fail)
    release, first = occupy(ours, client)
    calls = {route: later(client, route) for route in ("lora", "ssf", "lora, ssf")}
    until(lambda: ours.value(QUEUED) == 4)
    release.set()

    probabilities(first)
    same(probabilities(calls["lora"]), expected)
    for route in ("ssf", "lora, ssf"):
        (result,) = calls[route].result(WAIT_S).results
        assert result.error.code == code_pb2.RESOURCE_EXHAUSTED
        assert "no memory is left" in result.error.message
    assert client.serving()
    same(ask(client, "lora"), expected)
    changed.before = lambda rows: None
    assert ask(client, "ssf")


# Adapters that come and go


def test_a_load_never_stops_other_traffic(world: World) -> None:
    with Ours(world) as running, running.client() as client:
        expected = ask(client, "lora")
        go = running.hold_load("ssf:1")
        slow = [later(client, "ssf", seed) for seed in range(3)]
        until(lambda: running.server.service.adapter_cache.leases(running.digest("ssf")) == 3)

        for _ in range(5):
            same(ask(client, "lora"), expected)
        assert ask(client, "bitfit"), "another load"
        assert not any(call.done() for call in slow)

        slow[0].cancel()
        until(lambda: running.server.service.adapter_cache.leases(running.digest("ssf")) == 2)
        go.set()
        answers = [probabilities(call) for call in slow[1:]]
        same(answers[0], ask(client, "ssf", 1))
        same(answers[1], ask(client, "ssf", 2))


def test_a_corrupt_adapter_disturbs_no_other_traffic_and_its_repair_needs_no_restart(
    own_world: World,
) -> None:
    file = own_world.adapter_file("shapes", "ssf", 1)
    good = file.read_bytes()
    file.write_bytes(good[:200] + b"\0\0\0\0" + good[204:])
    with Ours(own_world) as running, running.client() as client:
        expected = {route: ask(client, route) for route in ("lora", "0.5*bitfit", "layernorm, lora:1")}
        stop = threading.Event()

        def go_on(route: str) -> int:
            count = 0
            while count < 20 or not stop.is_set():
                same(ask(client, route), expected[route])
                count += 1
            return count

        with ThreadPoolExecutor(3) as pool:
            others = [pool.submit(go_on, route) for route in expected]
            try:
                for route in 5 * ("ssf", "lora, ssf", "best"):
                    with pytest.raises(RequestFailed, match="shapes/ssf:1 cannot be loaded") as caught:
                        ask(client, route)
                    assert caught.value.code == "DATA_LOSS"
            finally:
                stop.set()
            assert min(future.result(WAIT_S) for future in others) >= 20

        file.write_bytes(good)
        assert ask(client, "ssf")
        assert ask(client, "best")


def test_unloading_under_traffic_frees_memory_and_every_request_is_answered(
    ours: Ours, client: Client
) -> None:
    admin, loaded = AdminClient(client), ours.loaded()
    expected = {route: ask(client, route) for route in ("lora", "ssf", "bitfit")}
    before = ours.value("corolla_registered_bytes")
    adapter, size = loaded[ours.digest("ssf")], ours.registered_bytes("ssf")
    release, first = occupy(ours, client)
    calls = {route: later(client, route) for route in expected}
    until(lambda: ours.value(QUEUED) == 3)

    freed = admin.unload_adapter("ssf", task="shapes")

    gc.collect()
    assert freed.freed_bytes == size
    assert adapter() is not None, "a request waits for it"
    release.set()
    probabilities(first)
    for route, call in calls.items():
        same(probabilities(call), expected[route])

    until(lambda: ours.value("corolla_registered_bytes") < before)
    gc.collect()
    assert adapter() is None, "an idle server holds nothing of what it ran"
    assert ours.value("corolla_registered_bytes") == before + ours.registered_bytes("base") - size
    assert ours.digest("ssf") not in ours.server.service.slots
    same(ask(client, "ssf"), expected["ssf"])
