"""Health: whoever asks holds up nobody else."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.rpc.health_servicer import MOST_BYTES, HealthServicer
from tests.serving.world import Running, World
from tests.waiting import WAIT_S

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_HEADERS, _SETTINGS, _DATA = 1, 4, 0
_END_OF_STREAM, _END_OF_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


@contextmanager
def reads_nothing(port: int) -> Iterator[None]:
    """A Watch of a client whose window has no room for an answer; entered once the server writes one."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Watch",
        ":authority": "here",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    coded = b"".join(
        b"\0" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode()
        for key, value in headers.items()
    )
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0))
            + _frame(_HEADERS, _END_OF_HEADERS, 1, coded)
            + _frame(_DATA, _END_OF_STREAM, 1, bytes(5))
        )
        seen = b""
        while not _answers(seen):
            seen += (more := connection.recv(4096))
            assert more
        yield


def _answers(seen: bytes) -> bool:
    """Whether the headers of the answer have arrived: its handler writes."""
    at = 0
    while at + 9 <= len(seen):
        if seen[at + 3] == _HEADERS:
            return True
        at += 9 + int.from_bytes(seen[at : at + 3])
    return False


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[HealthServicer, health_pb2_grpc.HealthStub, int]]:
    servicer, server = HealthServicer(["", "one"], **options), grpc.aio.server()
    servicer.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(WAIT_S), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield servicer, health_pb2_grpc.HealthStub(channel), port
    finally:
        await server.stop(0)


def of(name: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


async def code(call: Any) -> grpc.StatusCode:
    found: grpc.StatusCode = await call.code()
    return found


def test_a_watch_that_reads_nothing_keeps_no_server_from_stopping(world: World) -> None:
    with Running(world.settings()) as running, reads_nothing(running.server.port):
        running.stop()
        running.join()


async def test_those_who_read_are_told_beside_one_who_does_not() -> None:
    async with served() as (servicer, stub, port):
        watch = stub.Watch(of())
        assert (await watch.read()).status == NOT_SERVING
        quiet = reads_nothing(port)
        await asyncio.to_thread(quiet.__enter__)
        servicer.set("", serving=True)
        assert (await watch.read()).status == SERVING
        assert (await stub.Check(of())).status == SERVING
        assert (await stub.Check(of("one"))).status == NOT_SERVING
        quiet.__exit__(None, None, None)


async def test_one_who_leaves_takes_nobody_elses_answers_along() -> None:
    async with served(most_watchers=2) as (servicer, stub, _):
        stays, leaves = stub.Watch(of()), stub.Watch(of())
        for watch in (stays, leaves):
            assert (await watch.read()).status == NOT_SERVING
        assert await code(stub.Watch(of())) is grpc.StatusCode.RESOURCE_EXHAUSTED

        leaves.cancel()
        comes = await first_with_room(stub)
        servicer.set("", serving=True)
        assert (await stays.read()).status == SERVING
        assert (await comes.read()).status == SERVING


async def first_with_room(stub: health_pb2_grpc.HealthStub) -> Any:
    """A Watch that has its first answer, once another has left."""
    while True:
        watch: Any = stub.Watch(of())
        try:
            assert (await watch.read()).status == NOT_SERVING
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        else:
            return watch


async def test_a_service_that_is_not_served_is_not_watched() -> None:
    async with served() as (_, stub, _):
        watch = stub.Watch(of("nobody"))
        assert [answer.status async for answer in watch] == [UNKNOWN]
        assert await code(watch) is grpc.StatusCode.OK
        assert await code(stub.Check(of("nobody"))) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("message", [of("x" * MOST_BYTES).SerializeToString(), b"\n\xff"])
@pytest.mark.parametrize("kind", ["Check", "Watch"])
async def test_a_request_that_is_too_long_or_none_ends_at_once(kind: str, message: bytes) -> None:
    async with served() as (_, _, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        make: Any = channel.unary_unary if kind == "Check" else channel.unary_stream
        assert await code(make(f"/grpc.health.v1.Health/{kind}")(message)) is grpc.StatusCode.INVALID_ARGUMENT
