"""From our errors to gRPC: the one mapping, with the details that clients can act on."""

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from petl_vit.errors import (
    Conflict,
    CorollaError,
    Corrupt,
    Draining,
    Expired,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Unauthenticated,
    Unreachable,
)

_CODES: tuple[tuple[type[CorollaError], grpc.StatusCode], ...] = (
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.ABORTED),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Corrupt, grpc.StatusCode.DATA_LOSS),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Expired, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Draining, grpc.StatusCode.UNAVAILABLE),
    (Unreachable, grpc.StatusCode.UNAVAILABLE),
)
CODES = frozenset(
    {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, *(code for _, code in _CODES)}
)
"""Every code that a call can end with."""

RETRY_AFTER_MS = 100
_MAX_TEXT = 1000  # a client takes 8 KiB of metadata, and the text travels three times


def code_of(error: CorollaError) -> grpc.StatusCode:
    """The code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def message_of(error: CorollaError) -> str:
    """The text of an error, cut where it would not fit into gRPC's metadata."""
    text = str(error)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."


def status_of(error: CorollaError) -> status_pb2.Status:
    """The google.rpc.Status of an error: code, message, and the field or the time to wait."""
    text = message_of(error)
    status = status_pb2.Status(code=code_of(error).value[0], message=text)
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=text)
        _attach(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded | Draining):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(_retry_after_ms(error))
        _attach(status, retry)
    return status


def _retry_after_ms(error: Overloaded | Draining) -> int:
    seconds = error.retry_after_s if isinstance(error, Overloaded) else None
    return RETRY_AFTER_MS if seconds is None else max(RETRY_AFTER_MS, round(1000 * seconds))


def _attach(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)
