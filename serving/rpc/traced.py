"""Makes the calls of a server traced."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from serving.tracing import Tracing


class TracedCalls(grpc.aio.ServerInterceptor):
    """Tells the task of each call by what it is traced; only servers that trace have this."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        self._tracing.enter()
        return await continuation(details)
