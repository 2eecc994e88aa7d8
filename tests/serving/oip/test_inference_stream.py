"""ModelStreamInfer over a real channel."""

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from serving.oip.servicer import SERVICE
from tests.serving.oip.requests import described, images, infer, request
from tests.serving.triton_client import service_pb2, service_pb2_grpc
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import (
    WAIT_S,
    Running,
    World,
    until,
)


class Stream:
    """Requests that are given one by one, and the answers to them."""

    def __init__(self, running: Running) -> None:
        # A window that does not grow, so that answers to nobody soon fill it.
        self.channel = grpc.insecure_channel(running.address, options=[("grpc.http2.bdp_probe", 0)])
        self.taken = 0
        self._given: queue.Queue[Any] = queue.Queue()
        call = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self.answers = call(self._requests(), timeout=WAIT_S)

    def give(self, *requests: Any) -> "Stream":
        for one in requests:
            self._given.put(one)
        return self

    def end(self) -> "Stream":
        return self.give(None)

    def _requests(self) -> Iterator[Any]:
        while (one := self._given.get()) is not None:
            self.taken += 1
            yield one

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.cancel()
        self.end()
        self.channel.close()


def test_tritons_own_stream_is_answered_in_its_order(running: Running) -> None:
    answered: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(running.address) as client:
        client.start_stream(lambda result, error: answered.put((result, error)))
        for number in range(20):
            model = "shapes/nothing" if number == 7 else ("shapes/lora", "shapes/best")[number % 2]
            seeds = range(1 + 15 * (number % 2))
            client.async_stream_infer(model, [images(*seeds)], request_id=str(number))
        found = [answered.get(timeout=WAIT_S) for _ in range(20)]
        client.stop_stream()

    assert [None if error else result.get_response().id for result, error in found] == [
        None if number == 7 else str(number) for number in range(20)
    ]
    assert "NOT_FOUND: model_name: no adapter or named route" in str(found[7][1])
    assert found[3][0].as_numpy("probabilities").shape == (16, 3)
    assert found[3][0].get_response().parameters["triton_final_response"].bool_param


def test_a_request_that_fails_has_its_id_beside_the_message_and_the_stream_goes_on(running: Running) -> None:
    with Stream(running).give(request("shapes/loar", id="a"), request(id="b")).end() as stream:
        first, second = list(stream.answers)

    assert first.error_message.startswith("NOT_FOUND: model_name: ")
    assert first.infer_response.id == "a"
    assert (second.error_message, second.infer_response.id) == ("", "b")


def test_garbage_after_good_messages_ends_the_stream_after_their_answers(running: Running, stub: Any) -> None:
    with Stream(running).give(request(id="a"), request(id="b"), b"\xff\xff\xff") as stream:
        found = [next(stream.answers).infer_response.id for _ in range(2)]
        with pytest.raises(grpc.RpcError) as caught:
            next(stream.answers)

    assert found == ["a", "b"]
    assert described(caught.value)[:2] == ("INVALID_ARGUMENT", "message")
    assert stub.ModelInfer(request()).outputs


def test_a_stream_whose_client_stops_reading_is_read_no_further(world: World) -> None:
    counted = {"method": "ModelStreamInfer", "code": "OK"}
    with Running(world.settings(max_stream_requests=4)) as running, Stream(running) as stream:
        stream.give(*(request(id="x" * 2**20) for _ in range(40)))
        until(lambda: running.value("corolla_requests_total", **counted) >= 1)
        answered = 0.0
        with triton.InferenceServerClient(running.address) as client:
            while running.value("corolla_requests_total", **counted) > answered:
                answered = running.value("corolla_requests_total", **counted)
                for _ in range(20):
                    assert infer(client, "shapes/lora").as_numpy("label").shape == (1,)
        assert answered < 10, "what is under way, and the answers that fit into the client's window"
        assert len([next(stream.answers) for _ in range(40)]) == 40, "and goes on when it reads again"


def test_a_stream_that_is_cut_off_stops_its_work(world: World) -> None:
    with Running(world.settings()) as running, grpc.insecure_channel(running.address) as channel:
        release = running.hold_engine()
        first = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request())
        until(lambda: running.server.service.batcher.oldest_age_s > 0)
        with Stream(running).give(*(request() for _ in range(5))):
            until(lambda: running.value("corolla_queue_rows") == 5)
        until(lambda: running.value("corolla_queue_rows") == 0)
        release.set()
        assert first.result().outputs
        assert running.value("corolla_queue_dropped_total", reason="cancelled") == 5
