"""Calls whose replica died before it answered: UNAVAILABLE, which clients may repeat.

Ray's gRPC proxy ends them with INTERNAL and an account of its actor, which looks like a fault of the call.
"""

import inspect
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
from ray.exceptions import ActorDiedError

DETAILS = "the replica that had the call died before it answered; call again"

_ACTOR = re.compile(rf"{re.escape(ActorDiedError.BASE_ERROR_MSG)}|The actor \w+ is unavailable: ")
"""How Ray's errors of an actor begin: it is dead, or its connection broke."""

Handler = Callable[[Any, Any], Any]


def unavailable(factory: Callable[..., Handler]) -> Callable[..., Handler]:
    """A factory of the proxy's handlers whose calls end so; it takes what Ray's own takes."""

    def made(*args: Any, **keywords: Any) -> Handler:
        handler = factory(*args, **keywords)
        return _streaming(handler) if inspect.isasyncgenfunction(handler) else _single(handler)

    return made


def _single(handler: Handler) -> Handler:
    async def answer(request: Any, context: Any) -> Any:
        found = await handler(request, context)
        _correct(context)
        return found

    return answer


def _streaming(handler: Handler) -> Handler:
    async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(handler(request, context)) as found:
            async for message in found:
                yield message
        _correct(context)

    return answers


def _correct(context: Any) -> None:
    if context.code() is grpc.StatusCode.INTERNAL and _ACTOR.match(context.details()):
        context.set_code(grpc.StatusCode.UNAVAILABLE)
        context.set_details(DETAILS)
