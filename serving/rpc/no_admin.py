"""The answer to administration where a server takes none: a refusal that says how to allow it."""

from typing import Any

import grpc

from petl_vit.errors import Forbidden
from serving.rpc.admin_servicer import SERVICE
from serving.rpc.status import code_of, message_of


def no_admin() -> Forbidden:
    """The error of every administration call."""
    return Forbidden(
        "this server takes no administration",
        remedy="start it with --admin, or with --principals or --tls-client-ca, to know who calls",
    )


class NoAdmin(grpc.GenericRpcHandler):
    """Refuses every call of corolla.v1.Admin; without it, gRPC would say "Method not found!"."""

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if not handler_call_details.method.startswith(f"/{SERVICE}/"):
            return None
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(request: bytes, context: Any) -> bytes:
    error = no_admin()
    await context.abort(code_of(error), message_of(error))
    raise AssertionError("abort returned")
