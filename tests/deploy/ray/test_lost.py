"""How calls end whose replica died, without a cluster."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.serve._private.grpc_util import get_grpc_response_status, set_grpc_code_and_details

from deploy.ray.lost import DETAILS, unavailable

LOST = (grpc.StatusCode.UNAVAILABLE, DETAILS)


class Context:
    """The status of a call."""

    def __init__(self) -> None:
        self.said: tuple[Any, str] = (0, "")

    def code(self) -> Any:
        return self.said[0]

    def details(self) -> str:
        return self.said[1]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.said = (code, self.said[1])

    def set_details(self, details: str) -> None:
        self.said = (self.said[0], details)


async def ended(error: Exception, *, stream: bool) -> tuple[Any, str]:
    """The status of a call that ends with an error in Ray's proxy."""

    def fail(context: Context) -> None:
        set_grpc_code_and_details(context, get_grpc_response_status(error, None, "1"))

    async def single(request: bytes, context: Context) -> bytes:
        fail(context)
        return b""

    async def streaming(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield request
        fail(context)

    context, handler = Context(), unavailable(lambda: streaming if stream else single)()
    if stream:
        assert [message async for message in handler(b"1", context)] == [b"1"]
    else:
        assert await handler(b"1", context) == b""
    return context.said


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error", [ActorDiedError(), ActorUnavailableError("connection reset", None)], ids=["died", "unavailable"]
)
async def test_a_call_whose_replica_died_may_be_repeated(error: RayActorError, stream: bool) -> None:
    assert await ended(error, stream=stream) == LOST


@pytest.mark.parametrize("stream", [False, True])
async def test_other_errors_stay_what_they_are(stream: bool) -> None:
    assert await ended(ValueError("The actor"), stream=stream) == (grpc.StatusCode.INTERNAL, "The actor")


async def test_a_client_that_gives_up_ends_the_proxys_work() -> None:
    closed = SimpleNamespace(now=False)

    async def endless(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield request
        finally:
            closed.now = True

    answers = unavailable(lambda: endless)()(b"1", Context())
    assert await anext(answers) == b"1"
    await answers.aclose()

    assert closed.now
