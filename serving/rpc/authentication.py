"""Authentication of gRPC calls: who calls is known, and may make the call, before its message is read."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import Enum
from typing import Any

import grpc

from petl_vit.errors import CorollaError, Forbidden, Unauthenticated
from serving.access.authentication import HEADER, Access
from serving.access.caller import Caller, enter
from serving.access.principals import Scope
from serving.metrics.events import Metrics
from serving.rpc.call import call, logged_name

_CERTIFICATE_NAMES = ("x509_common_name", "x509_subject_alternative_name")


class Open(Enum):
    """What a call needs where it needs no scope."""

    NOTHING = "nothing"
    PRINCIPAL = "any principal"


Need = Scope | Open


class Authentication(grpc.aio.ServerInterceptor):
    """Lets calls through to their handlers for whom they are, and refuses all others.

    A token is looked at before the message of its call arrives; a certificate before it is parsed.

    Args:
        needs: What each call needs, by its path; any other needs a principal.
        certificates: Whether clients show certificates, which TLS verifies.
    """

    def __init__(
        self, access: Access, *, needs: Mapping[str, Need], certificates: bool, metrics: Metrics
    ) -> None:
        self._access, self._needs, self._certificates = access, needs, certificates
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, or that of its refusal."""
        method = details.method
        need = self._needs.get(method, Open.PRINCIPAL)
        handler = await continuation(details)
        if need is Open.NOTHING:
            return handler
        shown = [value for key, value in details.invocation_metadata if key == HEADER]
        if not shown and self._certificates and handler is not None:

            async def check(context: Any) -> None:
                error = self._refused(need, handler, lambda: self._by_certificate(context))
                if error is not None:
                    await self._refuse(method, error, context)

            return _checked(handler, check)
        error = self._refused(need, handler, lambda: self._by_header(shown))
        return handler if error is None else self._refusing(method, error)

    def _refused(self, need: Need, handler: Any, authenticate: Callable[[], Caller]) -> CorollaError | None:
        """Why a call is refused; None where its caller was let in."""
        try:
            caller = authenticate()
            enter(caller)
            if isinstance(need, Scope):
                caller.need(need)
            if not handler or not handler.request_streaming or need is Open.PRINCIPAL:
                caller.take_request()  # those of a stream are counted one by one
        except CorollaError as error:
            return error
        return None

    def _by_header(self, shown: list[str | bytes]) -> Caller:
        if not shown:
            raise self._access.nobody()
        if len(shown) > 1:
            raise Unauthenticated(
                f"the call has {len(shown)} authorizations", reason="malformed", remedy="send one token"
            )
        return self._access.by_header(shown[0])

    def _by_certificate(self, context: Any) -> Caller:
        shown = context.auth_context()
        names = [name.decode(errors="replace") for key in _CERTIFICATE_NAMES for name in shown.get(key) or ()]
        return self._access.by_certificate(names)

    def _refusing(self, method: str, error: CorollaError) -> Any:
        """A handler that ends a call without reading a message."""

        async def refuse(messages: AsyncIterator[bytes], context: Any) -> None:
            await self._refuse(method, error, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _refuse(self, method: str, error: CorollaError, context: Any) -> None:
        if isinstance(error, Unauthenticated):
            reason = error.reason
        else:
            reason = "scope" if isinstance(error, Forbidden) else "requests"
        self._metrics.callers.refused(reason)
        name = method.rpartition("/")[2] if method in self._needs else logged_name(method)
        async with call(name, context, self._metrics):
            raise error


def _checked(handler: Any, check: Callable[[Any], Awaitable[None]]) -> Any:
    """A handler that refuses a call, or goes on as another does.

    Args:
        handler: Of one message and one answer, or of two streams.
        check: Looks at the call's context, and ends the call where it is refused.
    """

    async def unary(message: bytes, context: Any) -> Any:
        await check(context)
        return await handler.unary_unary(handler.request_deserializer(message), context)

    async def streams(messages: AsyncIterator[Any], context: Any) -> None:
        await check(context)
        answers = handler.stream_stream(messages, context)
        if not inspect.isasyncgen(answers):
            await answers  # it writes to the context
            return
        async for answer in answers:
            await context.write(answer)

    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)
    assert handler.stream_stream is not None, "a call of a kind that no service has"
    return grpc.stream_stream_rpc_method_handler(
        streams, handler.request_deserializer, handler.response_serializer
    )
