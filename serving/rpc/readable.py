"""Reading of messages: one that is not a message of its method, or has too many parts, is the caller's fault.

gRPC ends a call that it cannot read as UNKNOWN, as if the fault were ours, and nobody counts it.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from petl_vit.errors import InvalidInput
from serving.rpc.call import path
from serving.rpc.parts import MOST_PARTS, check_parts
from serving.rpc.sent import Room, Sent

_PARTS_OF_IMAGE = 8


class Readable(grpc.aio.ServerInterceptor):
    """Gives servicers each message as `Sent`: what was read, or why that cannot be, and its size.

    Args:
        services: The full names of those whose messages are read so.
        max_images: Most images of one request, for which its parts have to suffice.
        max_bytes: Most bytes of all messages that are being answered.
    """

    def __init__(self, services: Collection[str], *, max_images: int, max_bytes: int) -> None:
        self._most, self._room = max(MOST_PARTS, _PARTS_OF_IMAGE * max_images), Room(max_bytes)
        described = map(descriptor_pool.Default().FindServiceByName, services)
        self._kinds: dict[str, Descriptor] = {
            path(method): method.input_type for service in described for method in service.methods
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """The call's handler, with a reader that raises nothing."""
        handler: Any = await continuation(details)
        kind = self._kinds.get(details.method)
        if handler is None or kind is None or handler.request_deserializer is None:
            return handler  # where nothing is read, nothing can be unreadable
        parse = handler.request_deserializer
        return handler._replace(request_deserializer=lambda data: self._sent(data, kind, parse))

    def _sent(self, data: bytes, kind: Descriptor, parse: Callable[[bytes], Any]) -> Sent[Any]:
        try:
            content = self._parsed(data, kind, parse)
        except InvalidInput as error:
            content = error
        return Sent(content, len(data), self._room)

    def _parsed(self, data: bytes, kind: Descriptor, parse: Callable[[bytes], Any]) -> Any:
        check_parts(data, kind, self._most)
        try:
            return parse(data)
        except DecodeError as error:
            raise InvalidInput(
                f"the bytes are not a {kind.name}", field="message", remedy=f"send a {kind.full_name}"
            ) from error
