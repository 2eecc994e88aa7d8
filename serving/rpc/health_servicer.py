"""Health (grpc.health.v1): anybody may ask it, so nobody who asks can hold up the server or fill its memory.

A status is set without waiting for those who watch it. A Watch of a service that is not served gets
SERVICE_UNKNOWN and ends; the protocol would keep it open for ever.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from petl_vit.errors import CorollaError, InvalidInput, NotFound, Overloaded
from serving.rpc.call import abort
from serving.rpc.status import status_of

_Answer = health_pb2.HealthCheckResponse

MOST_BYTES = 256
"""Of a request: gRPC keeps its bytes as long as the call lives."""
MOST_WATCHERS = 1024
"""As many as the calls of one connection."""


class HealthServicer:
    """Answers Check and Watch.

    Args:
        names: The services that are served; NOT_SERVING until they are set.
        most_watchers: How many may watch at once, all together.
    """

    def __init__(self, names: Iterable[str], *, most_watchers: int = MOST_WATCHERS) -> None:
        self._statuses: dict[str, Any] = dict.fromkeys(names, _Answer.NOT_SERVING)
        self._watchers: dict[str, set[asyncio.Event]] = {name: set() for name in self._statuses}
        self._most, self._open = most_watchers, 0

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds its calls to a server."""
        write = _Answer.SerializeToString
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, _name, write),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, _name, write),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(health.SERVICE_NAME, handlers),)
        )

    def set(self, name: str, *, serving: bool) -> None:
        """Sets the status of a service; of the event loop. Those who watch are told when they read."""
        self._statuses[name] = _Answer.SERVING if serving else _Answer.NOT_SERVING
        for changed in self._watchers[name]:
            changed.set()

    async def _check(self, name: str | InvalidInput, context: Any) -> Any:
        if isinstance(name, InvalidInput):
            await abort(context, status_of(name))
        elif name not in self._statuses:
            await abort(context, status_of(NotFound("no such service is served", field="service")))
        return _Answer(status=self._statuses[name])

    async def _watch(self, name: str | InvalidInput, context: Any) -> None:
        if isinstance(name, InvalidInput):
            await abort(context, status_of(name))
        if self._open >= self._most:
            await abort(context, status_of(self._full()))
        with self._counted(name) as changed:
            last = None
            while True:
                changed.clear()
                status = self._statuses.get(name, _Answer.SERVICE_UNKNOWN)
                if status != last:
                    # May take for ever: a caller that reads nothing holds up its own call only.
                    await context.write(_Answer(status=status))
                if status == _Answer.SERVICE_UNKNOWN:
                    return
                last = status
                await changed.wait()

    def _full(self) -> CorollaError:
        return Overloaded(
            f"{self._open:,} calls watch health already",
            field="watch",
            remedy="use Check, which is not limited",
        )

    @contextmanager
    def _counted(self, name: str) -> Iterator[asyncio.Event]:
        """Counts a Watch while it lives; what it waits for."""
        changed = asyncio.Event()
        watchers = self._watchers.get(name, set())  # of a service that is not served, nobody's
        watchers.add(changed)
        self._open += 1
        try:
            yield changed
        finally:
            self._open -= 1
            watchers.discard(changed)


def _name(data: bytes) -> str | InvalidInput:
    """The service that a request names, or why that cannot be known: raised here, gRPC would say UNKNOWN."""
    if len(data) > MOST_BYTES:
        return InvalidInput(
            f"the message has {len(data):,} bytes, more than {MOST_BYTES}",
            field="message",
            remedy="name a service that is served",
        )
    try:
        return str(health_pb2.HealthCheckRequest.FromString(data).service)
    except DecodeError:
        return InvalidInput(
            "the bytes are not a HealthCheckRequest",
            field="message",
            remedy="send a grpc.health.v1.HealthCheckRequest",
        )
