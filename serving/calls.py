"""One gRPC call: it is counted, and what goes wrong in it becomes its status, with details."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
from google.rpc import status_pb2

from petl_vit.errors import CorollaError
from serving.metrics import Metrics
from serving.status import status_of

_log = logging.getLogger(__name__)

_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@asynccontextmanager
async def call(method: str, context: Any, metrics: Metrics) -> AsyncIterator[None]:
    """Around the answering of a call.

    Args:
        method: The call's name, for the metrics.
        context: gRPC's, of the call.
    """
    started, code = time.monotonic(), grpc.StatusCode.OK
    try:
        yield
    except CorollaError as error:
        status = status_of(error)
        code = _CODES[status.code]
        await _abort(context, status, code)
    except asyncio.CancelledError:
        expired = context.time_remaining() == 0
        code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
        raise
    except Exception:
        code = grpc.StatusCode.INTERNAL
        incident = uuid.uuid4().hex[:12]
        _log.exception("incident %s in %s", incident, method)
        message = f"an unexpected error; the server's log has it as incident {incident}"
        await _abort(context, status_pb2.Status(code=code.value[0], message=message), code)
    finally:
        metrics.request(method, code.name, time.monotonic() - started)


async def _abort(context: Any, status: status_pb2.Status, code: grpc.StatusCode) -> NoReturn:
    metadata = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, status.message, trailing_metadata=metadata)
    raise AssertionError("abort returned")
