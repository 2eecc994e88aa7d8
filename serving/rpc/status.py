"""From our errors to gRPC: the one mapping, with the details that clients can act on."""

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

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
    Unreachable,
)

_CODES: tuple[tuple[type[CorollaError], int], ...] = (
    (InvalidInput, code_pb2.INVALID_ARGUMENT),
    (NotFound, code_pb2.NOT_FOUND),
    (Conflict, code_pb2.ABORTED),
    (Forbidden, code_pb2.PERMISSION_DENIED),
    (Corrupt, code_pb2.DATA_LOSS),
    (Overloaded, code_pb2.RESOURCE_EXHAUSTED),
    (Expired, code_pb2.DEADLINE_EXCEEDED),
    (Draining, code_pb2.UNAVAILABLE),
    (Unreachable, code_pb2.UNAVAILABLE),
)

RETRY_AFTER_MS = 100
_MAX_TEXT = 1000  # a client takes 8 KiB of metadata, and the text travels three times


def status_of(error: CorollaError) -> status_pb2.Status:
    """The google.rpc.Status of an error: code, message, and the field or the time to wait."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    text = _shortened(str(error))
    status = status_pb2.Status(code=code, message=text)
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=text)
        _attach(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded | Draining):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(_retry_after_ms(error))
        _attach(status, retry)
    return status


def _retry_after_ms(error: CorollaError) -> int:
    known = error.retry_after_s if isinstance(error, Overloaded) else None
    return RETRY_AFTER_MS if known is None else max(RETRY_AFTER_MS, round(1000 * known))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."


def _attach(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)
