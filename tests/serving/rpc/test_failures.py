"""corolla.v1.Classifier over a real channel: what fails in transport or while it is served."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from model_store.format.records import Draft
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from tests.serving.rpc.requests import ask, refused
from tests.serving.world import (
    CONFIG,
    DEADLINE_S,
    SHAPES,
    WAIT_S,
    Running,
    World,
    backbone_tensors,
    encoded,
    until,
)


def test_garbage_on_the_wire_fails_and_the_server_goes_on(running: Running, client: Client) -> None:
    call: Any = client.channel.unary_unary("/corolla.v1.Classifier/Classify")
    for garbage in (b"\xff\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x00" * 1000):
        with pytest.raises(grpc.RpcError) as caught:
            call(garbage, timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    assert len(ask(client, "lora").results) == 1


def test_an_unknown_method_is_unimplemented(client: Client) -> None:
    call: Any = client.channel.unary_unary("/corolla.v1.Classifier/Guess")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=WAIT_S)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(world: World) -> None:
    with Running(world.settings(max_message_bytes=100_000)) as running, running.client() as client:
        with pytest.raises(RequestFailed) as caught:
            ask(client, "lora", b"x" * 200_000)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert len(ask(client, "lora").results) == 1


def test_a_corrupted_adapter_is_refused_with_the_reason_and_the_server_goes_on(own_world: World) -> None:
    file = own_world.adapter_file("shapes", "ssf", 1)
    data = file.read_bytes()
    file.write_bytes(data[:-4] + b"\0\1\2\3")
    with Running(own_world.settings()) as running, running.client() as client:
        error = refused(client, "DATA_LOSS", "adapters/shapes/ssf/1/adapter.safetensors", route="lora, ssf")
        assert "shapes/ssf:1 cannot be loaded: digest" in str(error)
        assert ask(client, "lora").route == "lora:2"

        file.write_bytes(data)
        assert ask(client, "ssf").route == "ssf:1"


def test_an_adapter_of_another_backbone_is_refused(own_world: World) -> None:
    other = own_world.store.backbones.put("other", CONFIG, backbone_tensors(1), "random")
    own_world.put_task("shapes", SHAPES, other)
    task = own_world.store.tasks.get("shapes", other.digest)
    ours = own_world.store.adapters.manifest("shapes", "lora", 2)
    draft = Draft.of(
        task="shapes",
        name="foreign",
        method="lora",
        config=ours.config,
        backbone_digest=other.digest,
        task_digest=task.digest,
    )
    own_world.store.adapters.publish(draft, own_world.store.adapters.load(ours))
    with Running(own_world.settings(backbone="tiny")) as running, running.client() as client:
        error = refused(client, "INVALID_ARGUMENT", "route", route="foreign")
        assert other.digest[:12] in str(error)


def test_a_full_queue_is_resource_exhausted_with_a_time_to_wait(world: World) -> None:
    with Running(world.settings(max_queue_rows=4)) as running, running.client() as client:
        ask(client, "lora")
        release = running.hold_engine()
        with ThreadPoolExecutor(2) as pool:
            taken = pool.submit(ask, client, "lora")
            until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
            waiting = pool.submit(ask, client, "lora, ssf, bitfit")
            until(lambda: running.value("corolla_queue_rows") == 3)
            error = refused(client, "RESOURCE_EXHAUSTED", "queue", route="lora, ssf")
            release.set()
            assert taken.result(WAIT_S).route == "lora:2"
            assert waiting.result(WAIT_S).route == "lora:2, ssf:1, bitfit:1"

    assert isinstance(error.__cause__, grpc.Call)
    status = rpc_status.from_call(error.__cause__)
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() > 0


def test_a_deadline_that_passes_is_exceeded_and_its_rows_never_run(world: World) -> None:
    with Running(world.settings()) as running, running.client() as patient:
        ask(patient, "lora")
        release = running.hold_engine()
        with ThreadPoolExecutor(2) as pool, running.client(timeout_s=DEADLINE_S) as hasty:
            taken = pool.submit(ask, patient, "lora")
            until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
            expires = pool.submit(refused, hasty, "DEADLINE_EXCEEDED", None)
            until(lambda: running.value("corolla_queue_rows") == 1)
            expires.result(WAIT_S)
            until(lambda: running.value("corolla_queue_rows") == 0)
            release.set()
            taken.result(WAIT_S)
        assert ask(patient, "lora").route == "lora:2"
        assert running.value("corolla_batch_rows_sum") == 3
        labels = {"method": "Classify", "code": "DEADLINE_EXCEEDED"}
        assert running.value("corolla_requests_total", **labels) == 1


def test_an_unexpected_error_is_internal_with_an_incident_and_no_details(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Running(world.settings()) as running, running.client() as client:

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("the secret path")

        with monkeypatch.context() as patch:
            patch.setattr(running.server.service.catalog, "plan", broken)
            error = refused(client, "INTERNAL", None)
        assert ask(client, "lora").route == "lora:2"

    assert "secret" not in str(error)
    incident = str(error).rpartition("incident ")[2]
    assert len(incident) == 12
    (record,) = [record for record in caplog.records if incident in record.getMessage()]
    assert record.exc_info is not None


def test_a_caller_that_goes_harms_nobody(world: World) -> None:
    with Running(world.settings()) as running, running.client() as client:
        ask(client, "lora")
        release = running.hold_engine()
        request = request_of([encoded(0)], route="lora", task="shapes")
        call: Any = ClassifierStub(client.channel).Classify
        first = call.future(request, timeout=WAIT_S)
        until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
        gone, stays = (call.future(request, timeout=WAIT_S) for _ in range(2))
        until(lambda: running.value("corolla_queue_rows") == 2)
        gone.cancel()
        until(lambda: running.value("corolla_queue_rows") == 1)
        release.set()

        assert len(stays.result().results) == len(first.result().results) == 1
        cancelled = {"method": "Classify", "code": "CANCELLED"}
        until(lambda: running.value("corolla_requests_total", **cancelled) == 1)
