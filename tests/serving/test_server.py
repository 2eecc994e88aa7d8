"""The life of a server: start, readiness, stop."""

import asyncio
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from corolla.commands.serve import _serve
from petl_vit.errors import Corrupt, InvalidInput, NotFound
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from serving.rpc.classifier_servicer import SERVICE
from serving.server import Server
from tests.serving.world import CONFIG, WAIT_S, Running, World, backbone_tensors, encoded, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(client: Client, service: str = "") -> Any:
    stub = health_pb2_grpc.HealthStub(client.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S).status


def ask(client: Client, route: str = "lora") -> Any:
    return client.classify([encoded(0)], route=route, task="shapes")


def probe(port: int, page: str = "readyz") -> tuple[int, str]:
    """The status and the text of a page of the metrics port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# Readiness


async def test_it_is_not_serving_until_it_is_warm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(world.settings())
    loop, warming, go = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    warm = server.service.warm

    async def held() -> None:
        warming.set()
        await go.wait()
        await warm()

    monkeypatch.setattr(server.service, "warm", held)
    ready = asyncio.Event()
    running = loop.create_task(server.run(ready))
    await asyncio.wait_for(warming.wait(), WAIT_S)
    with Client(f"127.0.0.1:{server.port}") as client:
        for service in ("", SERVICE):
            assert await asyncio.to_thread(health, client, service) == NOT_SERVING
        assert not await asyncio.to_thread(client.serving)
        assert server.service.metrics.registry.get_sample_value("corolla_ready") == 0
        assert not server.service.engine.warmed
        assert await asyncio.to_thread(probe, server.metrics_port) == (503, "starting\n")
        assert await asyncio.to_thread(probe, server.metrics_port, "healthz") == (200, "ok\n")

        go.set()
        await asyncio.wait_for(ready.wait(), WAIT_S)
        for service in ("", SERVICE):
            assert await asyncio.to_thread(health, client, service) == SERVING
        assert server.service.metrics.registry.get_sample_value("corolla_ready") == 1
        assert server.service.engine.warmed
        assert await asyncio.to_thread(probe, server.metrics_port) == (200, "ok\n")
    server.stop()
    await asyncio.wait_for(running, WAIT_S)


def test_a_process_lives_and_is_not_ready_while_it_loads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen = []

    def load(*_: object) -> None:
        seen.extend([probe(port), probe(port, "healthz")])
        raise NotFound("no such backbone")

    monkeypatch.setattr("serving.server.Service", load)
    with pytest.raises(NotFound):
        Server(world.settings(metrics_port=port))
    assert seen == [(503, "starting\n"), (200, "ok\n")]
    with pytest.raises(urllib.error.URLError, match="refused"):
        probe(port)


def test_named_routes_are_in_the_metrics_before_the_first_request(running: Running) -> None:
    assert "shapes/best" in running.server.service.metrics.known_routes


def test_reflection_lists_the_service(running: Running) -> None:
    with running.client() as client:
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=WAIT_S)

    names = {service.name for service in reply.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


def test_metrics_are_scraped_over_http(running: Running) -> None:
    url = f"http://127.0.0.1:{running.server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=WAIT_S) as reply:
        text = reply.read().decode()

    assert "corolla_ready 1.0" in text
    assert 'corolla_backbone_info{architecture="vit_tiny_patch16_224"' in text


def test_the_status_page_shows_what_was_answered(world: World) -> None:
    with Running(world.settings()) as running, running.client() as client:
        ask(client)
        until(lambda: _images(running.server.metrics_port) == 1)
        status, page = probe(running.server.metrics_port, "")

    assert status == 200
    assert "Is it still right?" in page
    assert "shapes/best" in page


def _images(port: int) -> int:
    """How many the status says were answered."""
    routes = json.loads(probe(port, "status.json")[1])["routes"]
    return sum(domain["images"] for route in routes for domain in route["domains"])


def test_health_turns_off_while_the_oldest_row_is_too_old_and_on_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.server._HEALTH_PERIOD_S", 0.01)
    with Running(world.settings(stall_s=0.05)) as running, running.client() as client:
        ask(client)
        release = running.hold_engine()
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask, client)]
            until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
            asked.append(pool.submit(ask, client))
            until(lambda: health(client) == NOT_SERVING)
            status, text = probe(running.server.metrics_port)
            assert (status, text.startswith("stalled: the oldest")) == (503, True)
            release.set()
            assert [future.result(WAIT_S).route for future in asked] == ["lora:2"] * 2
        until(lambda: health(client) == SERVING)


def test_loads_ahead_see_whether_anybody_waits_for_answers(running: Running) -> None:
    busy = running.server.service.adapter_cache.preloads.busy
    until(lambda: not busy())
    release = running.hold_engine()
    with running.client() as client, ThreadPoolExecutor(1) as caller:
        answer = caller.submit(ask, client)
        until(busy)
        release.set()
        assert answer.result(WAIT_S).results
    until(lambda: not busy())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_served_process_is_no_business_of_its_garbage_collector_and_ends_at_a_signal(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    frozen, said = [], ""
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(True))
    serving = asyncio.create_task(_serve(world.settings()))
    async with asyncio.timeout(WAIT_S):
        while "gRPC 127.0.0.1:" not in said:
            await asyncio.sleep(0.01)
            assert not serving.done()
            said += capsys.readouterr().out
    os.kill(os.getpid(), number)
    await asyncio.wait_for(serving, WAIT_S)
    assert frozen == [True]


# Stop


def test_a_stop_finishes_queued_work_and_takes_no_more(world: World) -> None:
    with Running(world.settings()) as running, running.client() as client:
        ask(client)
        release = running.hold_engine()
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, client, "lora, ssf") for _ in range(3)]
            queued = "corolla_queue_duration_seconds_count"
            until(lambda: running.value(queued) - 1 + running.value("corolla_queue_rows") / 2 == 3)
            running.stop()
            until(lambda: health(client) == NOT_SERVING)
            with pytest.raises(RequestFailed, match="the server is stopping") as caught:
                ask(client)
            assert caught.value.code == "UNAVAILABLE"
            status, text = probe(running.server.metrics_port)
            assert (status, text.startswith("draining")) == (503, True)
            assert probe(running.server.metrics_port, "healthz") == (200, "ok\n")
            release.set()
            assert [future.result(WAIT_S).route for future in asked] == ["lora:2, ssf:1"] * 3
        running.join()


async def test_a_stop_while_it_warms_up_ends_it_and_it_never_serves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, warming, ready = Server(world.settings()), asyncio.Event(), asyncio.Event()
    shown: list[bool] = []

    async def held() -> None:
        warming.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(server.service, "warm", held)
    monkeypatch.setattr(server.service.metrics, "set_ready", shown.append)
    running = asyncio.create_task(server.run(ready))
    await asyncio.wait_for(warming.wait(), WAIT_S)
    server.stop()
    await asyncio.wait_for(running, WAIT_S)
    assert set(shown) == {False}
    assert not ready.is_set()


async def test_a_stop_as_it_has_warmed_up_turns_no_health_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, ready = Server(world.settings()), asyncio.Event()
    shown: list[bool] = []

    async def stopped() -> None:
        server.stop()

    monkeypatch.setattr(server.service, "warm", stopped)
    monkeypatch.setattr(server.service.metrics, "set_ready", shown.append)
    await asyncio.wait_for(server.run(ready), WAIT_S)
    assert set(shown) == {False}
    assert not ready.is_set()


def test_a_stop_is_bounded_and_says_so_to_those_who_wait(world: World) -> None:
    with Running(world.settings(drain_s=0.05)) as running, running.client() as client:
        ask(client)
        release = running.hold_engine()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, client)
            until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
            running.stop()
            with pytest.raises(RequestFailed, match="stopped before the work was done") as caught:
                asked.result(WAIT_S)
            assert caught.value.code == "UNAVAILABLE"
        release.set()


def test_two_servers_fit_in_one_process_and_count_apart(world: World) -> None:
    with Running(world.settings()) as one, Running(world.settings()) as two:
        with one.client() as client:
            ask(client)
        labels = {"method": "Classify", "code": "OK"}
        assert one.value("corolla_requests_total", **labels) == 1
        assert two.value("corolla_requests_total", **labels) == 0


# What stops a start


def test_a_store_without_a_backbone_says_how_to_get_one(tmp_path: Path, world: World) -> None:
    with pytest.raises(NotFound, match="corolla backbones import"):
        Server(world.settings(store=str(tmp_path)))


def test_a_misspelt_store_is_refused_and_nothing_is_made(tmp_path: Path, world: World) -> None:
    place, labels, key = tmp_path / "typo" / "store", tmp_path / "labels.db", tmp_path / "prediction.key"
    with pytest.raises(NotFound, match=r"there is no store at .*typo/store; name another with --store"):
        Server(world.settings(store=str(place), labels=str(labels), prediction_key_file=str(key)))
    assert list(tmp_path.iterdir()) == []


def test_labels_in_a_folder_that_there_is_not_are_refused_and_nothing_is_made(
    tmp_path: Path, world: World
) -> None:
    with pytest.raises(InvalidInput, match=r"there is no folder .*typo; make it") as caught:
        Server(world.settings(labels=str(tmp_path / "typo" / "labels.db")))
    assert caught.value.field == "labels"
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_several_backbones_asks_for_one(own_world: World) -> None:
    own_world.store.backbones.put("second", CONFIG, backbone_tensors(1), "random")

    with pytest.raises(InvalidInput, match="name one of second, tiny"):
        Server(own_world.settings())
    with pytest.raises(NotFound, match="did you mean tiny"):
        Server(own_world.settings(backbone="tinny"))


def test_a_damaged_backbone_is_refused(own_world: World) -> None:
    file = own_world.folder / "backbones" / own_world.backbone.digest / "backbone.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")

    with pytest.raises(Corrupt, match="digest"):
        Server(own_world.settings())


@pytest.mark.parametrize("port", ["port", "metrics_port"])
def test_a_port_that_is_taken_is_named(world: World, running: Running, port: str) -> None:
    taken = getattr(running.server, port)

    with (
        pytest.raises(InvalidInput, match=f"cannot listen on 127.0.0.1:{taken}"),
        Running(world.settings(**{port: taken})),
    ):
        pass


def exporters() -> int:
    """Threads that answer scrapes: the first ones that a server starts."""
    return sum(thread.name == "metrics port" for thread in threading.enumerate())


def test_a_start_that_fails_leaves_no_port_and_no_thread_behind(world: World, running: Running) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = exporters()
    assert before > 0

    for taken in ({"metrics_port": running.server.metrics_port}, {"port": running.server.port}):
        with pytest.raises(InvalidInput), Running(world.settings(**({"port": port} | taken))):
            pass

    assert exporters() == before
    with Running(world.settings(port=port)) as another, another.client() as client:
        assert ask(client).route == "lora:2"


def test_too_many_domains_are_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="domains"):
        Server(world.settings(domains=",".join(f"d{i}" for i in range(40))))
