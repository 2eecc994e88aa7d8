"""What goes wrong under load stays where it belongs: end to end, over real gRPC."""

import threading
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from torch import Tensor

from petl_vit.batch import Row
from petl_vit.preprocess import preprocess
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.answer import classifier
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from tests.serving.overload.servers import (
    COMPUTED,
    QUEUED,
    Ours,
    ask,
    later,
    occupy,
    probabilities,
    request,
    same,
)
from tests.serving.world import DEADLINE_S, WAIT_S, World, encoded, until

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


def test_images_in_decoding_take_the_room_that_they_will_take_in_the_queue(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what many requests hold decoded has no bound, and who comes next waits for all of it."""
    go = threading.Event()
    decoding: list[bytes] = []

    def held(data: bytes, *details: Any, **limits: Any) -> Tensor:
        decoding.append(data)
        assert go.wait(WAIT_S)
        return preprocess(data, *details, **limits)

    with Ours(world, max_queue_rows=40, decode_threads=100) as running, running.client() as client:
        expected = ask(client, "lora")
        monkeypatch.setattr(classifier, "preprocess", held)
        calls = [later(client, "lora") for _ in range(60)]
        until(lambda: running.dropped("full_rows") > 0)
        with pytest.raises(RequestFailed, match="do not fit in 40") as caught:
            client.send(request("lora, lora:1, ssf", seed=1))
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert encoded(1) not in decoding
        # There is room for somebody else.
        another = request("lora", client="another")
        other = ClassifierStub(client.channel).Classify.future(another, timeout=WAIT_S)
        until(lambda: sum(call.done() for call in calls) == running.dropped("full_rows") - 1)
        go.set()
        same(probabilities(other), expected)
        answered = [call for call in calls if call.exception(WAIT_S) is None]
        assert 30 <= len(answered) < 40
        for call in answered:
            same(probabilities(call), expected)
        same(ask(client, "lora"), expected)  # the room is free again


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
