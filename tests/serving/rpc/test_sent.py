"""The bytes of messages that are being answered, of calls and of streams together."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from petl_vit.errors import InvalidInput, Overloaded
from protos.corolla.v1 import classifier_pb2 as pb
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from protos.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from serving.rpc import readable
from serving.rpc.sent import Room, Sent
from tests.serving.oip.requests import request as oip_request
from tests.serving.world import WAIT_S, Running, World, until

MOST = 1_000_000
Codes = grpc.StatusCode


# Without a channel


def test_messages_have_room_while_others_are_answered_and_one_alone_always() -> None:
    room = Room(100)
    with Sent("large", 120, room).answered() as message:
        assert message == "large"
        with pytest.raises(
            Overloaded, match="messages of 120 bytes are being answered and 1 more do not fit"
        ):
            Sent("", 1, room).answered().__enter__()
    with room.taken(60), room.taken(40), pytest.raises(Overloaded), room.taken(1):
        pass
    with room.taken(120):
        pass


def test_a_message_that_fails_gives_its_bytes_back() -> None:
    room = Room(100)
    with pytest.raises(ZeroDivisionError), Sent("x", 60, room).answered():
        raise ZeroDivisionError
    with pytest.raises(InvalidInput, match="not a message"):
        Sent(InvalidInput("not a message"), 60, room).answered().__enter__()
    with room.taken(1), room.taken(99):
        pass


# Through a channel


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    """A server that answers messages of a million bytes at once."""
    with Running(world.settings(max_queue_bytes=MOST, max_batch_rows=1)) as running:
        yield running


def classify(size: int) -> pb.ClassifyRequest:
    """A request of one image, of about so many bytes and never more."""
    side = int((size / 3 - 100) ** 0.5)
    return request_of(tensor=np.zeros((1, side, side, 3), np.uint8), route="lora", task="shapes")


def under_way(running: Running) -> int:
    return len(running.server.service.batcher)


def nothing_is_being_answered(client: Client) -> None:
    """Waits until a message is answered that has room alone only."""

    def answered() -> bool:
        try:
            return bool(client.send(classify(2 * MOST)).results)
        except RequestFailed as error:
            if error.code != "RESOURCE_EXHAUSTED":
                raise
            return False

    until(answered)


class Stream:
    """A stream whose requests are given one by one, and whose answers are taken in the background."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.answers: list[Any] = []
        self._given: list[Any] = []
        self._more = threading.Condition()
        self.call = call(self._requests(), timeout=WAIT_S)
        self._pool = ThreadPoolExecutor(1)
        self.code: Future[grpc.StatusCode] = self._pool.submit(self._take)

    def give(self, *requests: Any) -> None:
        with self._more:
            self._given += requests
            self._more.notify()

    def end(self) -> None:
        self.give(None)

    def _requests(self) -> Iterator[Any]:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._given)
                request = self._given.pop(0)
            if request is None:
                return
            yield request

    def _take(self) -> grpc.StatusCode:
        try:
            for answer in self.call:
                self.answers.append(answer)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return Codes.OK

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.call.cancel()
        self.end()
        self._pool.shutdown()


def classify_stream(client: Client) -> Stream:
    return Stream(ClassifierStub(client.channel).ClassifyStream)


def test_a_request_of_a_stream_that_does_not_fit_fails_alone_and_the_stream_goes_on(running: Running) -> None:
    release = running.hold_engine()
    with running.client() as client, classify_stream(client) as stream:
        requests = [pb.StreamRequest(id=str(i), request=classify(MOST * 3 // 10)) for i in range(12)]
        stream.give(*requests[:11])
        until(lambda: len(stream.answers) == 8)
        assert under_way(running) == 3
        for answer in stream.answers:
            assert answer.error.code == Codes.RESOURCE_EXHAUSTED.value[0]
            assert "bytes are being answered" in answer.error.message
            assert len(answer.error.details) == 2, "the field, and when to try again"
        with pytest.raises(RequestFailed, match="do not fit in 1,000,000") as caught:
            client.send(classify(MOST * 3 // 10))
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert client.serving()

        release.set()
        until(lambda: len(stream.answers) == 11)
        stream.give(requests[11])
        stream.end()
        assert stream.code.result(WAIT_S) is Codes.OK
        answered = {answer.id for answer in stream.answers if answer.WhichOneof("outcome") == "response"}
        assert answered == {"0", "1", "2", "11"}
        nothing_is_being_answered(client)


def test_a_request_of_a_stream_does_not_fit_beside_calls(running: Running) -> None:
    release = running.hold_engine()
    with running.client() as client, classify_stream(client) as stream, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.send, classify(MOST * 9 // 10))
        until(lambda: under_way(running) == 1)
        stream.give(pb.StreamRequest(id="large", request=classify(MOST * 2 // 10)))
        stream.give(pb.StreamRequest(id="small", request=classify(MOST // 100)))
        until(lambda: len(stream.answers) == 1)
        assert stream.answers[0].id == "large"
        assert stream.answers[0].error.code == Codes.RESOURCE_EXHAUSTED.value[0]
        release.set()
        until(lambda: len(stream.answers) == 2)
        assert stream.answers[1].response.results
        assert call.result(WAIT_S).results


def test_streams_of_the_inference_protocol_are_bounded_too_and_answered_in_order(running: Running) -> None:
    release = running.hold_engine()
    with running.client() as client:
        with Stream(GRPCInferenceServiceStub(client.channel).ModelStreamInfer) as stream:
            large, small = "x" * (MOST * 9 // 10), "x" * (MOST * 2 // 10)
            stream.give(oip_request(id=large))
            until(lambda: under_way(running) == 1)
            stream.give(oip_request(id=small), oip_request(id="y"))
            until(lambda: under_way(running) == 2)
            assert stream.answers == [], "that of the request that does not fit waits for the first"
            release.set()
            until(lambda: len(stream.answers) == 3)
        assert [answer.infer_response.id[:1] for answer in stream.answers] == ["x", "x", "y"]
        assert [answer.error_message.partition(":")[0] for answer in stream.answers] == [
            "",
            "RESOURCE_EXHAUSTED",
            "",
        ]
        nothing_is_being_answered(client)


@pytest.mark.parametrize("ending", ["cancelled", "broken"])
def test_a_stream_that_ends_early_gives_its_bytes_back(running: Running, ending: str) -> None:
    release = running.hold_engine()
    with running.client() as client:
        channel = grpc.insecure_channel(running.address)
        call = channel.stream_stream(
            "/corolla.v1.Classifier/ClassifyStream",
            request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
            response_deserializer=pb.StreamResponse.FromString,
        )
        with Stream(call) as stream:
            stream.give(*(pb.StreamRequest(id=str(i), request=classify(MOST // 2)) for i in range(2)))
            until(lambda: under_way(running) == 2)
            with pytest.raises(RequestFailed, match="do not fit"):
                client.send(classify(MOST // 2))
            if ending == "cancelled":
                stream.call.cancel()
            else:
                channel.close()
            counted = {"method": "ClassifyStream", "code": "CANCELLED"}
            until(lambda: running.value("corolla_requests_total", **counted) == 2)
        channel.close()
        release.set()
        nothing_is_being_answered(client)


def test_a_stream_that_waits_keeps_no_request(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = list[weakref.ref[Sent[Any]]]()

    def remembered(*given: Any) -> Sent[Any]:
        made = Sent(*given)
        sent.append(weakref.ref(made))
        return made

    monkeypatch.setattr(readable, "Sent", remembered)
    with running.client() as client, classify_stream(client) as stream:
        stream.give(pb.StreamRequest(id="a", request=classify(MOST // 2)))
        until(lambda: len(stream.answers) == 1)
        until(lambda: sent[0]() is None)
        stream.give(pb.StreamRequest(id="b", request=classify(MOST // 2)))
        until(lambda: len(stream.answers) == 2)  # so it was not the stream's end that freed the first
