"""What the log looks like: lines for people, or JSON objects, with the id of the request they are about."""

import logging
import re
import sys
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from serving import tracing

CALLS = logging.getLogger("corolla.calls")
"""Where each call is told; off until `set_up` says otherwise."""
CALLS.setLevel(logging.CRITICAL + 1)
_CALL_LEVELS = {"off": logging.CRITICAL + 1, "failed": logging.WARNING, "all": logging.INFO}
_FIT = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_NAME = "corolla"
_request: ContextVar[str] = ContextVar("request", default="")


def set_up(
    form: Literal["text", "json"] = "text",
    calls: Literal["off", "failed", "all"] = "off",
    stream: TextIO | None = None,
) -> None:
    """Makes the process log in one form, from INFO on.

    Args:
        calls: Which calls have a line each.
        stream: None is stderr.
    """
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if each.get_name() == _NAME]:
        root.removeHandler(earlier)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.set_name(_NAME)
    handler.addFilter(_mark)
    handler.setFormatter(_json() if form == "json" else _text())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    CALLS.setLevel(_CALL_LEVELS[calls])


def call_ended(method: str, code: str, seconds: float) -> None:
    """Tells of a call, or of one request of a stream."""
    level = logging.INFO if code == "OK" else logging.WARNING
    if CALLS.isEnabledFor(level):
        fields = {"method": method, "code": code, "seconds": round(seconds, 6)}
        CALLS.log(level, "%s: %s in %.1f ms", method, code, 1000 * seconds, extra=fields)


def request_id() -> str:
    """The id of the request that this task answers; empty outside of one."""
    return _request.get()


def begin(given: str | bytes | None) -> None:
    """What this task logs is about a request with this id from now on; with a new one where it is not fit.

    Args:
        given: What its client sent: 1 to 128 letters, digits and signs.
    """
    fit = isinstance(given, str) and _FIT.fullmatch(given) is not None
    _request.set(str(given) if fit else uuid.uuid4().hex)


def _mark(record: logging.LogRecord) -> bool:
    name = _request.get()
    record.request_id, record.trace_id = name or None, tracing.trace_id()
    record.about = f" [request {name}]" if name else ""
    return True


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s%(about)s")


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class Lines(JsonFormatter):
        """One object a line; times in UTC, and no field without a value."""

        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
            return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

        def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in log_data.items() if value is not None and name != "about"}

    names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}
    return Lines("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=names)
