"""Traces, as a collector gets them over OTLP: a call, its wait, its forward, and the batch that it was in."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from petl_vit.errors import InvalidInput
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.messages import request_of
from serving.server import Server
from tests.serving.access.callers import Callers
from tests.serving.world import WAIT_S, Running, World, encoded, until

service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
service_grpc = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


class Collector(service_grpc.TraceServiceServicer):  # type: ignore[misc]
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.names: set[str] = set()
        self._server = grpc.server(ThreadPoolExecutor(2))
        service_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            given = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            self.names.add(given["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return service.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def attributes(span: Any) -> dict[str, Any]:
    values = ((pair.key, pair.value) for pair in span.attributes)
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values}


def test_a_request_is_followed_from_its_call_through_the_queue_into_its_batch(
    world: World, collector: Collector
) -> None:
    with Running(world.settings(otlp_endpoint=collector.endpoint)) as running, running.client() as client:
        request = request_of([encoded(0), encoded(1)], route="lora, ssf", task="shapes")
        stub = ClassifierStub(client.channel)
        traced = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "order-17"))
        release = running.hold_engine()
        calls = [stub.Classify.future(request, timeout=WAIT_S, metadata=traced)]
        taken = "corolla_queue_duration_seconds_count"
        until(lambda: running.value(taken) + running.value("corolla_queue_rows") / 2 == 2)
        calls.append(stub.Classify.future(request, timeout=WAIT_S))
        until(lambda: running.value(taken) + running.value("corolla_queue_rows") / 2 == 4)
        release.set()
        assert [len(call.result(WAIT_S).results) for call in calls] == [2, 2]

    assert collector.names == {"corolla"}
    ours, other = sorted(collector.named("Classify"), key=lambda span: span.trace_id.hex() != TRACE)
    assert (ours.trace_id.hex(), ours.parent_span_id.hex()) == (TRACE, CALLER)
    assert attributes(ours) | {"corolla.request_id": "order-17", "rpc.grpc.status_code": 0} == attributes(
        ours
    )
    assert other.trace_id != ours.trace_id
    for call in (ours, other):
        within = {
            name: [s for s in collector.named(name) if s.parent_span_id == call.span_id] for name in PARTS
        }
        assert all(within.values())
        for queue, forward in zip(within["queue"], within["forward"], strict=True):
            assert call.start_time_unix_nano <= queue.end_time_unix_nano <= call.end_time_unix_nano
            assert queue.end_time_unix_nano == forward.start_time_unix_nano
    batches = {span.span_id: span for span in collector.named("batch")}
    assert all(not span.parent_span_id for span in batches.values())
    for forward in collector.named("forward"):
        (link,) = forward.links
        assert forward.parent_span_id in {link.span_id for link in batches[link.span_id].links}


PARTS = ("queue", "forward")


def test_a_call_that_is_refused_or_not_served_has_a_span(
    world: World, collector: Collector, tmp_path: Path
) -> None:
    callers = Callers(tmp_path / "principals.json")
    callers.add("team")
    given = (("x-request-id", "order-18"),)
    for method, access in {
        "/corolla.v1.Classifier/Classify": {"principals": str(callers.write())},
        "/corolla.v1.Classifier/Nothing": {},
    }.items():
        settings = world.settings(otlp_endpoint=collector.endpoint, **access)
        with Running(settings) as running, grpc.insecure_channel(running.address) as channel:
            call: Any = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError):
                call(b"", metadata=given, timeout=WAIT_S)
    codes = {span.name: attributes(span)["rpc.grpc.status_code"] for span in collector.spans}
    assert codes == {"Classify": 16, "/corolla.v1.Classifier/Nothing": 12}
    assert {attributes(span)["corolla.request_id"] for span in collector.spans} == {"order-18"}


def test_what_a_client_does_not_want_sampled_is_not_sent(world: World, collector: Collector) -> None:
    with Running(world.settings(otlp_endpoint=collector.endpoint)) as running, running.client() as client:
        request = request_of([encoded(0)], route="lora", task="shapes")
        ClassifierStub(client.channel).Classify(
            request, timeout=WAIT_S, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-00"),)
        )
    assert collector.spans == []


def test_a_collector_that_is_away_holds_up_neither_answers_nor_the_stop(world: World) -> None:
    with Running(world.settings(otlp_endpoint="http://127.0.0.1:9")) as running, running.client() as client:
        assert client.classify([encoded(0)], route="lora", task="shapes").results
        running.stop()
        running.join()


def test_an_endpoint_that_is_not_a_url_is_named(world: World) -> None:
    with pytest.raises(InvalidInput, match="otlp_endpoint") as caught:
        Server(world.settings(otlp_endpoint="localhost:4317"))
    assert caught.value.field == "otlp_endpoint"
