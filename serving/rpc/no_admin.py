"""The answer to administration where a server takes none: a refusal that says how to allow it."""

from typing import Any

import grpc

from petl_vit.errors import Forbidden
from serving.metrics.events import Metrics
from serving.rpc.admin_servicer import SERVICE
from serving.rpc.call import call, logged_name


def no_admin() -> Forbidden:
    """The error of every administration call."""
    return Forbidden(
        "this server takes no administration",
        remedy="start it with --admin, or with --principals or --tls-client-ca, to know who calls",
    )


class NoAdmin(grpc.GenericRpcHandler):
    """Refuses every call of corolla.v1.Admin; without it, gRPC would say "Method not found!"."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        method = handler_call_details.method
        if not method.startswith(f"/{SERVICE}/"):
            return None

        async def refuse(request: bytes, context: Any) -> bytes:
            async with call(logged_name(method), context, self._metrics):
                raise no_admin()
            raise AssertionError("a refused call was not aborted")

        return grpc.unary_unary_rpc_method_handler(refuse)
