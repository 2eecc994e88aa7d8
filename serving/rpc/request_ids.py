"""The ids of calls, by which their answers, their refusals and the log name them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from serving import logs, tracing
from serving.rpc.call import REQUEST_ID, logged_name


class RequestIds(grpc.aio.ServerInterceptor):
    """Gives each call its id before anything looks at it, also one of a method that is not served."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        logs.begin(dict(details.invocation_metadata).get(REQUEST_ID))
        handler = await continuation(details)
        return _not_served(details.method) if handler is None else handler


def _not_served(method: str) -> Any:
    """A handler that ends a call as gRPC does where there is none, with the call's id."""

    async def refuse(messages: AsyncIterator[bytes], context: Any) -> None:
        code, name = grpc.StatusCode.UNIMPLEMENTED, logged_name(method)
        with tracing.call(name, context.invocation_metadata() or ()) as traced:
            if traced is not None:
                traced.end(code.value[0], logs.request_id())
        logs.call_ended(name, code.name, 0.0)
        named = ((REQUEST_ID, logs.request_id()),)
        await context.abort(code, "Method not found!", trailing_metadata=named)

    return grpc.stream_stream_rpc_method_handler(refuse)
