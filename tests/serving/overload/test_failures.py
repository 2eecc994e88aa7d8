"""What goes wrong under load stays where it belongs: end to end, over real gRPC."""

import gc
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import torch
from google.rpc import code_pb2

from petl_vit.batch import Row
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from tests.serving.overload.servers import QUEUED, Ours, ask, later, occupy, probabilities, same
from tests.serving.world import WAIT_S, World, until

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
