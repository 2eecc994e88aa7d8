"""The TLS sidecar's nginx.conf in a real nginx, in front of a gRPC server that repeats what it is sent."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from tests.nginx import MISSING, Sidecar, program
from tests.waiting import WAIT_S, until

pytestmark = pytest.mark.skipif(program() is None, reason=MISSING)

MANY = 200
LARGE = 16 * 2**20
FLOOD = 64
CUT = 2
"""Streams that the defaults cut, one after the other: a whole timeout passes after the first."""
SIZES = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def repeat(request: bytes, context: Any) -> bytes:
    """Answers with the request, and with its metadata as trailing metadata."""
    context.set_trailing_metadata([(f"x-{key}", value) for key, value in context.invocation_metadata()])
    return request


def refuse(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.NOT_FOUND, request.decode())
    raise AssertionError


def repeat_all(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


def flood(request: bytes, context: Any) -> Iterator[bytes]:
    """Far more than is on its way where nobody reads it."""
    for _ in range(FLOOD):
        yield bytes(2**20)


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    """HOST:PORT of the server that stands in for Ray's proxy."""
    handlers = {
        "Repeat": grpc.unary_unary_rpc_method_handler(repeat),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Flood": grpc.unary_stream_rpc_method_handler(flood),
        "RepeatAll": grpc.stream_stream_rpc_method_handler(repeat_all),
    }
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool, options=SIZES)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture(scope="module")
def sidecar(proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with Sidecar(tmp_path_factory.mktemp("sidecar") / "nginx", proxy) as sidecar:
        yield sidecar


def channel(sidecar: Sidecar, address: str = "") -> grpc.Channel:
    ca = sidecar.certificates.read("ca.pem")
    return grpc.secure_channel(
        address or sidecar.address, grpc.ssl_channel_credentials(ca), [*SIZES, ("grpc.enable_http_proxy", 0)]
    )


@pytest.fixture(scope="module")
def through(sidecar: Sidecar) -> Iterator[grpc.Channel]:
    with channel(sidecar) as made:
        yield made


def repeated(channel: grpc.Channel, go_on: threading.Event) -> Any:
    """The answers of a stream after the first, which has come; the second is sent once it is to go on."""

    def sent() -> Iterator[bytes]:
        yield b"first"
        go_on.wait(WAIT_S)
        yield b"second"

    answers = channel.stream_stream("/test.Test/RepeatAll")(sent(), timeout=WAIT_S)
    assert next(answers) == b"first"
    return answers


def test_its_file_has_no_fault(sidecar: Sidecar) -> None:
    assert "[emerg]" not in sidecar.log()
    assert "[warn]" not in sidecar.log()


def test_large_messages_pass_both_ways(through: grpc.Channel) -> None:
    sent = bytes(LARGE)

    assert through.unary_unary("/test.Test/Repeat")(sent, timeout=WAIT_S) == sent


def test_metadata_passes_under_every_name_that_grpc_has(through: grpc.Channel) -> None:
    sent = [("authorization", "Bearer x"), ("multiplexed_model_id", "shapes/lora"), ("a.b-c", "1")]
    _, call = through.unary_unary("/test.Test/Repeat").with_call(b"", metadata=sent, timeout=WAIT_S)

    assert {(f"x-{key}", value) for key, value in sent} <= {
        (key, value) for key, value in call.trailing_metadata()
    }


def test_a_long_error_arrives_whole(through: grpc.Channel) -> None:
    text = "x" * 4096
    with pytest.raises(grpc.RpcError) as raised:
        through.unary_unary("/test.Test/Refuse")(text.encode(), timeout=WAIT_S)

    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, text)


def test_a_silent_stream_outlives_the_defaults_of_nginx(sidecar: Sidecar, through: grpc.Channel) -> None:
    go_on = threading.Event()
    answers = repeated(through, go_on)
    with channel(sidecar, sidecar.bare) as bare:
        for _ in range(CUT):
            others = repeated(bare, go_on)
            with pytest.raises(grpc.RpcError):
                next(others)
    go_on.set()

    assert list(answers) == [b"second"]


def test_a_slow_reader_outlives_the_defaults_of_nginx(sidecar: Sidecar, through: grpc.Channel) -> None:
    answers = through.unary_stream("/test.Test/Flood")(b"", timeout=WAIT_S)
    next(answers)
    with channel(sidecar, sidecar.bare) as bare:
        for _ in range(CUT):
            others = bare.unary_stream("/test.Test/Flood")(b"", timeout=WAIT_S)
            next(others)
            assert others.code() is not grpc.StatusCode.OK

    assert len(list(answers)) == FLOOD - 1


def ports_to(address: str) -> set[int]:
    """The ports of this process's connections to an address."""
    found = psutil.Process().net_connections("tcp")
    return {c.laddr.port for c in found if c.raddr and c.raddr.port == int(address.rpartition(":")[2])}


def test_a_connection_carries_more_calls_than_nginx_gives_it_by_default(
    sidecar: Sidecar, through: grpc.Channel
) -> None:
    call = through.unary_unary("/test.Test/Repeat")
    call(b"", timeout=WAIT_S)
    before = ports_to(sidecar.address)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: call(b"%d" % number, timeout=WAIT_S), range(MANY)))

    assert answers == [b"%d" % number for number in range(MANY)]
    assert ports_to(sidecar.address) == before


def test_a_new_certificate_ends_no_call(sidecar: Sidecar, through: grpc.Channel) -> None:
    go_on, before = threading.Event(), sidecar.shown()
    answers = repeated(through, go_on)
    sidecar.certificates.issue("server")
    sidecar.reload()
    until(lambda: sidecar.shown() != before)
    go_on.set()

    assert list(answers) == [b"second"]


def test_a_client_without_tls_is_refused(sidecar: Sidecar) -> None:
    with Client(sidecar.address, timeout_s=WAIT_S) as client, pytest.raises(RequestFailed) as raised:
        client.call(client.channel.unary_unary("/test.Test/Repeat"), b"")

    assert raised.value.code == "UNAVAILABLE"


def test_a_proxy_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with Sidecar(tmp_path / "nginx", "127.0.0.1:1") as sidecar:
        credentials = grpc.ssl_channel_credentials(sidecar.certificates.read("ca.pem"))
        with Client(sidecar.address, credentials=credentials, timeout_s=WAIT_S) as client:
            for image in (b"", bytes(LARGE)):
                with pytest.raises(RequestFailed) as raised:
                    client.classify([image], route="lora")
                assert raised.value.code == "UNAVAILABLE"
                assert "Ray's gRPC proxy does not answer nginx; call again" in str(raised.value)
