"""A device or a store that hangs: the server is not ready, lives, answers what it can, and comes back."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from model_store.place.objects import Objects
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from serving.server import LIVE
from tests.serving.test_server import NOT_SERVING, SERVING, ask, health, probe
from tests.serving.world import WAIT_S, Running, World, until


@pytest.fixture
def store_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is cleared, whoever reads or lists a store waits."""
    answers = threading.Event()
    answers.set()
    for name in ("read", "keys", "stamps"):
        at_once = getattr(Objects, name)

        def held(self: Objects, key: str, at_once: object = at_once) -> object:
            assert answers.wait(WAIT_S)
            return at_once(self, key)  # type: ignore[operator]

        monkeypatch.setattr(Objects, name, held)
    yield answers
    answers.set()


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.server._HEALTH_PERIOD_S", 0.01)


@pytest.mark.usefixtures("watching")
def test_a_store_that_hangs_turns_readiness_off_and_holds_up_no_name_that_is_known(
    world: World, store_answers: threading.Event
) -> None:
    with Running(world.settings(stall_s=0.2, refresh_s=0.02)) as running, running.client() as client:
        ask(client)
        store_answers.clear()
        until(lambda: health(client) == NOT_SERVING)
        assert probe(running.server.metrics_port) == (503, "stalled: the store has not answered for 0.2 s\n")
        assert probe(running.server.metrics_port, "healthz") == (200, "ok\n")
        assert health(client, LIVE) == SERVING

        with ThreadPoolExecutor(20) as pool:
            unknown = [pool.submit(ask, client, f"lora:{number}") for number in range(20, 40)]
            assert ask(client).route == "lora:2"
            for call in unknown:
                with pytest.raises(RequestFailed, match="the store has not answered") as caught:
                    call.result(WAIT_S)
                assert caught.value.code == "UNAVAILABLE"

        store_answers.set()
        until(lambda: health(client) == SERVING)
        assert ask(client, "ssf").route == "ssf:1"


@pytest.mark.usefixtures("watching")
def test_a_device_that_hangs_turns_readiness_off_and_the_process_lives(world: World) -> None:
    with Running(world.settings(stall_s=0.05)) as running, running.client() as client:
        ask(client)
        release = running.hold_engine()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, client)
            until(lambda: health(client) == NOT_SERVING)
            assert probe(running.server.metrics_port)[0] == 503
            assert probe(running.server.metrics_port, "healthz") == (200, "ok\n")
            assert health(client, LIVE) == SERVING
            release.set()
            assert asked.result(WAIT_S).route == "lora:2"
        until(lambda: health(client) == SERVING)


def test_a_client_that_watches_health_is_told_at_once(world: World) -> None:
    with Running(world.settings()) as running, Client(running.address) as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert next(watch).status == SERVING
        running.stop()
        assert next(watch).status == NOT_SERVING
        watch.cancel()
