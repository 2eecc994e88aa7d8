"""One gRPC call: it is counted, and what goes wrong in it becomes its status, with details."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NoReturn

import grpc
from google.rpc import status_pb2

from petl_vit.errors import CorollaError
from serving.metrics.events import Metrics
from serving.rpc.status import status_of

_log = logging.getLogger(__name__)

_DETAILS_KEY = "grpc-status-details-bin"
_EARLY_S = 0.1
"""A client gives up when its own clock says so, which may be a little before the server's does."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Outcome:
    """What becomes of a call; OK until it fails.

    Args:
        method: The call's name, for the log.
    """

    def __init__(self, method: str) -> None:
        self._method, self.code = method, grpc.StatusCode.OK

    def fail(self, error: Exception) -> status_pb2.Status:
        """The status of what went wrong; an error of ours is logged, and named by its incident only."""
        if isinstance(error, CorollaError):
            status = status_of(error)
        else:
            incident = uuid.uuid4().hex[:12]
            _log.error("incident %s in %s", incident, self._method, exc_info=error)
            message = f"an unexpected error; the server's log has it as incident {incident}"
            status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=message)
        self.code = _CODES[status.code]
        return status


@contextmanager
def counted(method: str, context: Any, metrics: Metrics) -> Iterator[Outcome]:
    """Counts a call, or one request of a stream, with the outcome that is left in it.

    Args:
        method: The call's name, for the metrics.
        context: gRPC's, of the call.
    """
    started, outcome = time.monotonic(), Outcome(method)
    try:
        yield outcome
    except asyncio.CancelledError:
        left = context.time_remaining()
        expired = left is not None and left < _EARLY_S
        outcome.code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
        raise
    finally:
        metrics.request(method, outcome.code.name, time.monotonic() - started)


@asynccontextmanager
async def call(method: str, context: Any, metrics: Metrics) -> AsyncIterator[None]:
    """Around the answering of a call, which ends with the status of what goes wrong; counted.

    Args:
        method: The call's name, for the metrics.
        context: gRPC's, of the call.
    """
    with counted(method, context, metrics) as outcome:
        try:
            yield
        except Exception as error:
            await _abort(context, outcome.fail(error), outcome.code)


async def _abort(context: Any, status: status_pb2.Status, code: grpc.StatusCode) -> NoReturn:
    metadata = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, status.message, trailing_metadata=metadata)
    raise AssertionError("abort returned")
