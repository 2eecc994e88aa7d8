"""ClassifyStream over a real channel."""

import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import grpc
import numpy as np
import pytest

from protos.corolla.v1 import classifier_pb2 as pb
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, failure, request_of
from serving.rpc.classifier_servicer import MAX_ID
from tests.serving.world import DEADLINE_S, METHODS, WAIT_S, Running, World, encoded, pixels, until

ROUTES = (*METHODS, "0.5*lora", "lora + ssf", "best", "base")


def asked(route: str = "lora", seed: int = 0, **options: Any) -> pb.ClassifyRequest:
    return request_of([encoded(seed)], route=route, task="shapes", probabilities=True, **options)


def values(response: Any) -> list[float]:
    assert isinstance(response, pb.ClassifyResponse), response
    return list(response.results[0].probabilities)


# Answers


def test_every_request_is_answered_as_if_it_came_alone(client: Client) -> None:
    requests = {route: asked(route, i) for i, route in enumerate(ROUTES)}
    answers = dict(client.stream(requests.items(), timeout_s=WAIT_S))

    assert answers.keys() == requests.keys()
    for route, request in requests.items():
        np.testing.assert_allclose(values(answers[route]), values(client.send(request)), atol=1e-5)


def test_a_request_of_many_images_is_a_batch(client: Client) -> None:
    images = [encoded(seed) for seed in range(40)]
    batch = request_of(images, route="lora", task="shapes", ids=[str(i) for i in range(40)])
    ((_, answer),) = client.stream([("batch", batch)], timeout_s=WAIT_S)

    assert isinstance(answer, pb.ClassifyResponse)
    assert [result.id for result in answer.results] == [str(i) for i in range(40)]


def test_answers_come_as_they_are_done(world: World) -> None:
    with Running(world.settings(max_batch_rows=1)) as running, running.client() as client:
        release = running.hold_engine()
        requests = [
            ("first", asked(priority="low")),  # taken by the engine at once
            ("second", asked(priority="low")),
            ("refused", asked("lorra")),
            ("preferred", asked(priority="high")),
        ]

        def reached(i: int) -> bool:
            return under_way(running) == (1, 2, 2)[i]

        def given() -> Iterator[tuple[str, pb.ClassifyRequest]]:
            for i, request in enumerate(requests):
                yield request
                if request is not requests[-1]:  # after which the engine goes on
                    until(partial(reached, i))

        answers = client.stream(given(), timeout_s=WAIT_S)
        early = next(answers)[0]
        until(lambda: waits(running) == 2)
        release.set()
        # Which of two forwards is written first is up to the pool that builds their answers.
        assert (early, {name for name, _ in answers}) == ("refused", {"first", "second", "preferred"})


def waits(running: Running) -> float:
    return running.value("corolla_queue_rows")


def test_a_bad_request_fails_alone_with_its_status(client: Client) -> None:
    bad_image = request_of([b"no image"], route="lora", task="shapes")
    bad = {
        "name": (asked("lorra"), "NOT_FOUND", "adapter"),
        "text": (asked("lora,"), "INVALID_ARGUMENT", "route"),
        "images": (request_of([], route="lora", task="shapes"), "INVALID_ARGUMENT", "images"),
        "empty": (pb.ClassifyRequest(), "INVALID_ARGUMENT", "route"),
        "client": (asked(client="x" * 200), "INVALID_ARGUMENT", "client"),
        "tensor": (asked(tensor=pixels()[None]), "INVALID_ARGUMENT", "tensor"),
    }
    requests = {"good": asked()} | {name: request for name, (request, _, _) in bad.items()}
    answers = dict(client.stream((requests | {"bad image": bad_image, "last": asked()}).items()))

    for name, (_, code, field) in bad.items():
        error = answers[name]
        assert isinstance(error, RequestFailed)
        assert (error.code, error.named_field) == (code, field), str(error)
    assert values(answers["good"]) == pytest.approx(values(answers["last"]))
    assert answers["bad image"].results[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]  # type: ignore[union-attr]


def test_every_request_of_a_stream_is_counted(running: Running, client: Client) -> None:
    before = counted(running, "OK"), counted(running, "NOT_FOUND")
    list(client.stream([("a", asked()), ("b", asked("lorra")), ("c", asked())]))
    after = counted(running, "OK"), counted(running, "NOT_FOUND")
    assert after == (before[0] + 2, before[1] + 1)


def test_a_stream_without_requests_ends_well(client: Client) -> None:
    assert list(client.stream([], timeout_s=WAIT_S)) == []


def test_two_requests_of_one_id_are_both_answered(client: Client) -> None:
    answers = list(client.stream([("x", asked()), ("x", asked("ssf"))]))
    assert [name for name, _ in answers] == ["x", "x"]


async def test_the_asynchronous_client_takes_iterators_of_both_kinds(running: Running) -> None:
    async def given() -> AsyncIterator[tuple[str, pb.ClassifyRequest]]:
        for i in range(20):
            yield str(i), asked(seed=i)

    async with AsyncClient(running.address) as client:
        found = {name: values(answer) async for name, answer in client.stream(given())}
        same = {
            name: values(answer)
            async for name, answer in client.stream([(str(i), asked(seed=i)) for i in range(20)])
        }
    assert len(found) == 20
    assert same.keys() == found.keys()
    for name, row in found.items():
        assert same[name] == pytest.approx(row, abs=1e-5)


# What ends a stream


def raw(running: Running, *messages: bytes) -> tuple[list[pb.StreamResponse], grpc.RpcError]:
    """Sends bytes as they are; the answers and the error that ended the stream."""
    with grpc.insecure_channel(running.address) as channel:
        call = channel.stream_stream(
            "/corolla.v1.Classifier/ClassifyStream",
            request_serializer=bytes,
            response_deserializer=pb.StreamResponse.FromString,
        )(iter(messages), timeout=WAIT_S)
        answers = list[pb.StreamResponse]()
        with pytest.raises(grpc.RpcError) as caught:
            answers.extend(call)
    return answers, caught.value


def test_garbage_ends_the_stream_after_the_answers_to_what_came_before(running: Running) -> None:
    good = [pb.StreamRequest(id=str(i), request=asked(seed=i)).SerializeToString() for i in range(3)]
    answers, error = raw(running, *good, b"\xff\xff garbage", good[0])

    assert {answer.id for answer in answers} == {"0", "1", "2"}
    assert all(answer.WhichOneof("outcome") == "response" for answer in answers)
    said = failure(error)
    assert (said.code, said.named_field) == ("INVALID_ARGUMENT", "message"), str(said)


def test_an_id_that_is_too_long_ends_the_stream(running: Running) -> None:
    good = pb.StreamRequest(id="x" * MAX_ID, request=asked()).SerializeToString()
    long = pb.StreamRequest(id="x" * (MAX_ID + 1), request=asked()).SerializeToString()
    answers, error = raw(running, good, long)

    assert len(answers) == 1
    assert (failure(error).code, failure(error).named_field) == ("INVALID_ARGUMENT", "id")


def test_a_message_that_is_too_large_ends_the_stream_and_not_the_server(world: World) -> None:
    with Running(world.settings(max_message_bytes=20_000)) as running:
        good = pb.StreamRequest(id="good", request=asked()).SerializeToString()
        _, error = raw(running, good, bytes(30_000))
        assert failure(error).code == "RESOURCE_EXHAUSTED"
        with running.client() as client:
            assert values(client.send(asked()))


def test_the_deadline_of_the_stream_is_that_of_its_requests(world: World) -> None:
    with Running(world.settings()) as running, running.client() as client:
        release = running.hold_engine()
        with pytest.raises(RequestFailed) as caught:
            list(client.stream([(str(i), asked()) for i in range(4)], timeout_s=DEADLINE_S))
        release.set()
        assert caught.value.code == "DEADLINE_EXCEEDED"
        until(lambda: counted(running, "DEADLINE_EXCEEDED") == 4)
        assert values(client.send(asked()))


def counted(running: Running, code: str) -> float:
    return running.value("corolla_requests_total", method="ClassifyStream", code=code)


def test_a_cancelled_stream_takes_its_queued_work_with_it(world: World) -> None:
    with Running(world.settings(max_batch_rows=1)) as running, running.client() as client:
        release = running.hold_engine()
        answers = client.stream((str(i), asked("lorra" if i == 0 else "lora")) for i in range(9))
        next(answers)  # the bad one
        until(lambda: waits(running) == 7)
        answers.close()  # type: ignore[attr-defined]
        until(lambda: waits(running) == 0)
        assert running.value("corolla_queue_dropped_total", reason="cancelled") == 7
        release.set()
        until(lambda: counted(running, "CANCELLED") == 8)
        assert values(client.send(asked()))


def test_what_taking_a_request_raises_is_raised_after_the_answers(client: Client) -> None:
    def given() -> Iterator[tuple[str, pb.ClassifyRequest]]:
        yield "a", asked()
        raise OSError("no such file")

    answers = client.stream(given())
    assert next(answers)[0] == "a"
    with pytest.raises(OSError, match="no such file"):
        next(answers)


async def test_what_taking_a_request_raises_is_raised_on_asyncio_too(running: Running) -> None:
    def given() -> Iterator[tuple[str, pb.ClassifyRequest]]:
        yield "a", asked()
        raise OSError("no such file")

    async with AsyncClient(running.address) as client:
        answers = client.stream(given())
        assert (await anext(answers))[0] == "a"
        with pytest.raises(OSError, match="no such file"):
            await anext(answers)


def test_a_stream_to_nobody_fails_as_a_call_does() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(RequestFailed) as caught:
        list(client.stream([("a", asked())], timeout_s=WAIT_S))
    assert caught.value.code == "UNAVAILABLE"


def test_an_open_stream_does_not_keep_a_server_from_stopping(world: World) -> None:
    over = threading.Event()

    def given() -> Iterator[tuple[str, pb.ClassifyRequest]]:
        yield "a", asked()
        over.wait(WAIT_S)

    with Running(world.settings()) as running, running.client() as client:
        answers = client.stream(given())
        assert next(answers)[0] == "a"
        running.stop()
        with pytest.raises(RequestFailed) as caught:
            next(answers)
        assert caught.value.code == "UNAVAILABLE"
        over.set()
        running.join()


# Backpressure


def test_no_more_is_read_than_may_be_under_way(world: World) -> None:
    with Running(world.settings(max_stream_requests=4)) as running, running.client() as client:
        release = running.hold_engine()
        with ThreadPoolExecutor(1) as pool:
            answers = client.stream((str(i), asked()) for i in count())
            first = pool.submit(next, answers)
            until(lambda: under_way(running) == 4)
            for _ in range(20):
                assert client.serving()
            assert under_way(running) == 4
            release.set()
            first.result(WAIT_S)
            answers.close()  # type: ignore[attr-defined]


def under_way(running: Running) -> int:
    """Works that are queued or running."""
    return len(running.server.service.batcher)


def test_a_client_that_does_not_read_holds_bounded_work_and_harms_nobody(world: World) -> None:
    """Large answers fill what lies between server and client; from then on nothing more is read."""
    request = request_of([encoded(0)] * 8, route="lora", task="shapes", ids=["x" * 20_000] * 8)
    given = (pb.StreamRequest(id=str(i), request=request) for i in count())

    with Running(world.settings(max_stream_requests=3)) as running, running.client() as client:
        stalled = ClassifierStub(client.channel).ClassifyStream(given)
        until(lambda: counted(running, "OK") >= 3)
        settled = 0.0
        while settled != (settled := counted(running, "OK")):
            until(lambda: under_way(running) == 0)
            for _ in range(20):
                assert values(client.send(asked()))
        assert settled < 100
        assert under_way(running) == 0
        stalled.cancel()
