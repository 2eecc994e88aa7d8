"""Calls that are refused before a service sees them have ids, in their ends and in the log."""

import io
from collections.abc import Iterator
from itertools import count
from typing import Any

import grpc
import pytest

from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.messages import request_of
from tests.serving.access.callers import ALL, Callers
from tests.serving.logged import lines
from tests.serving.world import WAIT_S, Running, World, encoded, until

CLASSIFIER, ADMIN, OIP = "corolla.v1.Classifier", "corolla.v1.Admin", "inference.GRPCInferenceService"
METHODS = (
    f"/{CLASSIFIER}/Classify",
    f"/{CLASSIFIER}/ClassifyStream",
    f"/{ADMIN}/ListAdapters",
    f"/{OIP}/ModelInfer",
    f"/{OIP}/ModelStreamInfer",
)
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
UNREADABLE = b"\xff\xff\xff"
_NUMBERS = count()


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    callers = Callers(tmp_path_factory.mktemp("access") / "principals.json")
    callers.add("all", *ALL)
    callers.add("feedback", "feedback")
    callers.add("seldom", *ALL, requests_per_s=0.01)
    callers.write()
    return callers


@pytest.fixture(scope="module")
def channel(world: World, callers: Callers) -> Iterator[grpc.Channel]:
    """To a server with principals."""
    with (
        Running(world.settings(principals=str(callers.path))) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield channel


def end(channel: grpc.Channel, method: str, message: bytes, *metadata: tuple[str, str]) -> tuple[str, str]:
    """The code with which a call of one message ends, and the id that its end names."""
    call: Any = channel.stream_stream(method)(iter([message]), metadata=metadata, timeout=WAIT_S)
    code: grpc.StatusCode = call.code()
    return code.name, dict(call.trailing_metadata()).get("x-request-id", "")


def check(channel: grpc.Channel, written: io.StringIO, method: str, code: str, **sent: Any) -> None:
    """The call's id is the client's, or a new one, and the log has one line under it."""
    header, message = sent.get("header", ()), sent.get("message", b"")
    name = f"order-{next(_NUMBERS)}"
    assert end(channel, method, message, ("x-request-id", name), *header) == (code, name)
    ended, new = end(channel, method, message, *header)
    assert (ended, len(new)) == (code, 32)
    for each in (name, new):
        until(lambda each=each: told(written, each))
        (line,) = told(written, each)
        assert (line["code"], line["level"]) == (code, "WARNING")
        assert line["method"] in (method, method.rpartition("/")[2])


def told(written: io.StringIO, name: str) -> list[dict[str, Any]]:
    return [line for line in lines(written) if line.get("request_id") == name]


@pytest.mark.parametrize("method", [*METHODS, REFLECTION])
def test_a_call_of_nobody_has_an_id(channel: grpc.Channel, written: io.StringIO, method: str) -> None:
    check(channel, written, method, "UNAUTHENTICATED")


@pytest.mark.parametrize("method", METHODS)
def test_a_call_without_the_scope_has_an_id(
    channel: grpc.Channel, written: io.StringIO, callers: Callers, method: str
) -> None:
    check(channel, written, method, "PERMISSION_DENIED", header=callers.header("feedback"))


@pytest.mark.parametrize("method", [method for method in METHODS if "Stream" not in method])
def test_a_call_beyond_the_limit_has_an_id(
    channel: grpc.Channel, written: io.StringIO, callers: Callers, method: str
) -> None:
    end(channel, method, b"", *callers.header("seldom"))  # the only one in 100 s
    check(channel, written, method, "RESOURCE_EXHAUSTED", header=callers.header("seldom"))


@pytest.mark.parametrize("method", METHODS)
def test_a_call_whose_message_cannot_be_read_has_an_id(
    channel: grpc.Channel, written: io.StringIO, callers: Callers, method: str
) -> None:
    check(channel, written, method, "INVALID_ARGUMENT", header=callers.header("all"), message=UNREADABLE)


@pytest.mark.parametrize("service", [CLASSIFIER, ADMIN, OIP, "of.nobody"])
def test_a_call_that_is_not_served_has_an_id(
    channel: grpc.Channel, written: io.StringIO, callers: Callers, service: str
) -> None:
    check(channel, written, f"/{service}/Nonsense", "UNIMPLEMENTED", header=callers.header("all"))
    check(channel, written, f"/{service}/Nonsense", "UNAUTHENTICATED")


def test_administration_that_is_not_served_has_an_id(world: World, written: io.StringIO) -> None:
    with (
        Running(world.settings(admin=False)) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        for method in ("ListAdapters", "Nonsense"):
            check(channel, written, f"/{ADMIN}/{method}", "PERMISSION_DENIED")


def test_an_unknown_method_is_logged_in_one_short_line(running: Running, written: io.StringIO) -> None:
    with grpc.insecure_channel(running.address) as channel:
        _, name = end(channel, f"/of.nobody/{'x' * 3000}", b"")
    until(lambda: told(written, name))
    (line,) = told(written, name)
    assert line["method"] == f"/of.nobody/{'x' * 89}"


def test_a_stream_has_one_id_for_its_requests_and_its_end(running: Running, written: io.StringIO) -> None:
    good = pb.StreamRequest(id="a", request=request_of([encoded(0)], route="lora", task="shapes"))
    bad = pb.StreamRequest(id="b", request=request_of([encoded(0)], route="lroa", task="shapes"))
    with running.client() as client:
        call = client.channel.stream_stream(
            f"/{CLASSIFIER}/ClassifyStream",
            request_serializer=pb.StreamRequest.SerializeToString,
            response_deserializer=pb.StreamResponse.FromString,
        )(iter([good, bad]), timeout=WAIT_S)
        assert len(list(call)) == 2
        name = dict(call.trailing_metadata())["x-request-id"]
    assert sorted(line["code"] for line in told(written, name)) == ["NOT_FOUND", "OK"]


def test_health_that_is_refused_has_an_id(running: Running) -> None:
    with grpc.insecure_channel(running.address) as channel:
        code, name = end(channel, "/grpc.health.v1.Health/Check", UNREADABLE, ("x-request-id", "probe-1"))
    assert (code, name) == ("INVALID_ARGUMENT", "probe-1")
