"""What a call sent, before it is answered: a message of its method, not of too many parts, that has room.

gRPC ends a call that it cannot read as UNKNOWN, as if the fault were ours, and nobody counts it.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError

from petl_vit.errors import CorollaError, InvalidInput, Overloaded
from serving.metrics.events import Metrics
from serving.rpc.call import call
from serving.rpc.parts import MOST_PARTS, check_parts

_PARTS_OF_IMAGE = 8
_Read = Callable[[bytes], Any]


class Readable(grpc.aio.ServerInterceptor):
    """Ends calls whose message cannot be read, or has too many parts, as INVALID_ARGUMENT, and counts them.

    Args:
        services: The full names of those whose messages are looked at.
        max_images: Most images of one request, for which its parts have to suffice.
        max_bytes: Most bytes of all messages that are being answered, but for those of streams.
    """

    def __init__(
        self, services: Collection[str], metrics: Metrics, *, max_images: int, max_bytes: int
    ) -> None:
        self._metrics, self._most = metrics, max(MOST_PARTS, _PARTS_OF_IMAGE * max_images)
        self._max_bytes, self._bytes = max_bytes, 0
        described = map(descriptor_pool.Default().FindServiceByName, services)
        self._methods: dict[str, MethodDescriptor] = {
            f"/{service.full_name}/{method.name}": method
            for service in described
            for method in service.methods
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """The call's handler, with a reader that looks first."""
        handler: Any = await continuation(details)
        method = self._methods.get(details.method)
        if handler is None or method is None or handler.request_deserializer is None:
            return handler  # where nothing is read, nothing can be unreadable
        read = self._bounded(handler.request_deserializer, method)
        if handler.request_streaming:
            return handler._replace(request_deserializer=_as_decode_error(read))
        answer = self._answering(handler.unary_unary, method.name)
        return handler._replace(request_deserializer=_as_value(read), unary_unary=answer)

    def _bounded(self, read: _Read, method: MethodDescriptor) -> _Read:
        kind = method.input_type

        def bounded(data: bytes) -> Any:
            check_parts(data, kind, self._most)
            try:
                return read(data)
            except DecodeError as error:
                raise InvalidInput(
                    f"the bytes are not a {kind.name}", field="message", remedy=f"send a {kind.full_name}"
                ) from error

        return bounded

    def _answering(self, answer: Any, name: str) -> Any:
        async def answering(sent: _Sent, context: Any) -> Any:
            error = sent.message if isinstance(sent.message, CorollaError) else self._no_room(sent.size)
            if error is not None:
                async with call(name, context, self._metrics):
                    raise error
            self._bytes += sent.size
            try:
                return await answer(sent.message, context)
            finally:
                self._bytes -= sent.size

        return answering

    def _no_room(self, size: int) -> CorollaError | None:
        """Why a message cannot be answered now; one alone always can."""
        if not self._bytes or self._bytes + size <= self._max_bytes:
            return None
        return Overloaded(
            f"messages of {self._bytes:,} bytes are being answered and {size:,} more do not fit in "
            f"{self._max_bytes:,}",
            field="queue",
            remedy="retry after a pause, or send smaller images",
        )


class _Sent(NamedTuple):
    """A message or why it cannot be read, and how many bytes it had."""

    message: Any
    size: int


def _as_value(read: _Read) -> _Read:
    """A reader that returns its error: raised in there, it would not reach the caller."""

    def reading(data: bytes) -> _Sent:
        try:
            return _Sent(read(data), len(data))
        except InvalidInput as error:
            return _Sent(error, len(data))

    return reading


def _as_decode_error(read: _Read) -> _Read:
    """A reader whose error `serving.rpc.call.decoded` takes for what it is."""

    def reading(data: bytes) -> Any:
        try:
            return read(data)
        except InvalidInput as error:
            raise DecodeError(error.problem) from error

    return reading
