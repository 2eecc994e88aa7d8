"""What every gRPC call has in common: it is counted, and an error in it becomes its status, with details."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from functools import wraps
from typing import Any, NoReturn, Protocol, TypeVar, cast
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import status_pb2

from petl_vit.errors import CorollaError, Overloaded
from serving import logs, tracing
from serving.access.caller import caller, current
from serving.access.principals import ANONYMOUS
from serving.engine.out_of_memory import is_out_of_memory
from serving.metrics.events import Metrics
from serving.rpc import incident
from serving.rpc.sent import Sent
from serving.rpc.status import CODES, status_of
from serving.rpc.stream import answer_all

_log = logging.getLogger(__name__)

T = TypeVar("T")
RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

REQUEST_ID = "x-request-id"
"""In a call's metadata: how its client calls it, and in its answer's: how the log does."""
_DETAILS_KEY = "grpc-status-details-bin"
_MOST_NAME = 100
_EARLY_S = 0.1
"""A client gives up when its own clock says so, which may be a little before the server's does."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Servicer(Protocol):
    """An object that answers the calls of a service.

    Attributes:
        metrics: Where its calls are counted.
    """

    metrics: Metrics


S = TypeVar("S", bound=Servicer)


class Outcome:
    """The outcome of a call; OK until it fails.

    Args:
        method: The call's name, for the log.
    """

    def __init__(self, method: str) -> None:
        self._method, self.code = method, grpc.StatusCode.OK

    def fail(self, error: Exception) -> status_pb2.Status:
        """The status of an error; of one that is not a `CorollaError` it tells the incident only."""
        if isinstance(error, CorollaError):
            status = status_of(error)
        elif is_out_of_memory(error):
            _log.warning("a call of %s was refused, as no memory is left: %r", self._method, error)
            status = status_of(_no_memory())
        else:
            message = incident.report(error, method=self._method)
            status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=message)
        self.code = _CODES[status.code]
        return status


def _no_memory() -> CorollaError:
    return Overloaded(
        "no memory is left for this call",
        field="memory",
        remedy="retry after a pause; lower --host-bytes, --max-queue-bytes or --decode-threads",
    )


def show_calls(service: ServiceDescriptor, metrics: Metrics) -> None:
    """Shows the calls of a service in the metrics before the first of them arrives."""
    metrics.add_methods([method.name for method in service.methods], [code.name for code in CODES])


def path(method: MethodDescriptor) -> str:
    """How gRPC names a call, in its requests and to interceptors."""
    return f"/{method.containing_service.full_name}/{method.name}"


def logged_name(path: str) -> str:
    """How the log names a call that may not exist: without control characters, and not all of a long name."""
    return repr(path)[1:-1][:_MOST_NAME]


@contextmanager
def counted(method: str, context: Any, metrics: Metrics) -> Iterator[Outcome]:
    """Counts a call, or one request of a stream, by its outcome.

    Args:
        method: The call's name, for the metrics.
        context: gRPC's, of the call.
    """
    started, outcome = time.monotonic(), Outcome(method)
    sent = context.invocation_metadata() or ()
    with tracing.call(method, sent) as traced:
        try:
            with _counted(method, context, metrics, started, outcome):
                yield outcome
        finally:
            if traced is not None:
                traced.end(outcome.code.value[0], logs.request_id())


@contextmanager
def _counted(method: str, context: Any, metrics: Metrics, started: float, outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        left = context.time_remaining()
        expired = left is not None and left < _EARLY_S
        outcome.code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
        raise
    finally:
        seconds = time.monotonic() - started
        metrics.request(method, outcome.code.name, seconds)
        logs.call_ended(method, outcome.code.name, seconds)
        if (principal := caller()) is not ANONYMOUS:
            metrics.callers.request(principal.name, outcome.code.name)


def _name_answer(context: Any) -> None:
    """Sends the call's id after its answer."""
    context.set_trailing_metadata(((REQUEST_ID, logs.request_id()),))


@asynccontextmanager
async def call(method: str, context: Any, metrics: Metrics) -> AsyncIterator[None]:
    """The context of a call: counts it, and ends it with the status of an error.

    Args:
        method: The call's name, for the metrics.
        context: gRPC's, of the call.
    """
    with counted(method, context, metrics) as outcome:
        _name_answer(context)
        try:
            yield
        except Exception as error:
            await abort(context, outcome.fail(error))


def unary(
    method: Callable[[S, RequestT, Any], Awaitable[AnswerT]],
) -> Callable[[S, Any, Any], Coroutine[Any, Any, AnswerT]]:
    """Makes a servicer's method answer the call of its name, whose message is `Sent`; see `call`."""

    @wraps(method)
    async def answer(servicer: S, sent: Sent[RequestT], context: Any) -> AnswerT:
        async with call(method.__name__, context, servicer.metrics):
            with sent.answered() as request:
                return await method(servicer, request, context)
        raise AssertionError("a failed call was not aborted")

    return answer


async def stream(
    method: str,
    context: Any,
    metrics: Metrics,
    answer: Callable[[RequestT], Awaitable[AnswerT]],
    failure: Callable[[RequestT, status_pb2.Status], AnswerT],
    *,
    most: int,
    check: Callable[[RequestT], object] = lambda request: None,
    ordered: bool = False,
) -> None:
    """Answers a stream and counts each of its requests; one that cannot be read ends it with a status.

    Args:
        method: The call's name, for the metrics.
        context: gRPC's, of the call. Requests are read from it, each as `Sent`, and answers written to it: a
            generator is not told that its call ended.
        failure: The answer to a request that failed.
        most: Most requests under way, including the one being read.
        check: Raises `InvalidInput` for a request that ends the stream.
        ordered: Whether answers are sent in the order of their requests.
    """

    async def read() -> Sent[RequestT] | None:
        # Not by gRPC's iterator, which keeps each request until the next one comes.
        sent: Any = await context.read()
        if sent is grpc.aio.EOF:
            return None
        check(sent.message)
        return cast(Sent[RequestT], sent)

    async def counted_answer(sent: Sent[RequestT]) -> AnswerT:
        with counted(method, context, metrics) as outcome:
            try:
                current().take_request()
                with sent.answered() as request:
                    return await answer(request)
            except Exception as error:
                return failure(sent.message, outcome.fail(error))

    _name_answer(context)
    try:
        await answer_all(read, counted_answer, context.write, most=most, ordered=ordered)
    except CorollaError:
        async with call(method, context, metrics):
            raise


def deadline_of(context: Any) -> float | None:
    """When a call's client stops waiting, time.monotonic() seconds; None where it waits for ever."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def caller_of(context: Any) -> str:
    """Who calls, for the store's history: the principal, the name in a certificate, and the address."""
    shown = context.auth_context().get("x509_common_name") or context.peer_identities() or ()
    names = [name.decode(errors="replace") for name in shown]
    if (principal := caller()) is not ANONYMOUS:
        names.insert(0, principal.name)
    return " ".join([*dict.fromkeys(names), unquote(context.peer())])


async def in_pool(pool: Executor, function: Callable[..., T], *arguments: object) -> T:
    """Runs a function that computes or waits in a pool, off the event loop, for the caller of this task."""
    run = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(pool, run, function, *arguments)


async def abort(context: Any, status: status_pb2.Status) -> NoReturn:
    """Ends a call with a status and its details."""
    code = _CODES[status.code]
    metadata = ((_DETAILS_KEY, status.SerializeToString()), (REQUEST_ID, logs.request_id()))
    await context.abort(code, status.message, trailing_metadata=metadata)
    raise AssertionError("abort returned")
