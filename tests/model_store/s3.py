"""A server of the real S3 protocol on loopback (moto), that fails when it is told to."""

import importlib.util
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NoReturn
from urllib.request import ProxyHandler, Request, build_opener

Answer = tuple[str, list[tuple[str, str]], bytes]
Listings = dict[str, Answer]
"""Answers to listings, by query."""

BUCKET = "models"
HAS_MOTO = importlib.util.find_spec("moto") is not None


class How(Enum):
    """What becomes of a request."""

    THROTTLED = auto()  # 503 SlowDown, and nothing is done
    REFUSED = auto()  # 403 AccessDenied, and nothing is done
    BROKEN = auto()  # it is done, and the answer is 500
    CUT = auto()  # it is done, and the connection closes without an answer
    HANGS = auto()  # it is done, and no answer comes until the server ends


@dataclass(kw_only=True)
class Fault:
    """The next requests of a method whose path has a part, and what becomes of them."""

    method: str
    part: str
    how: How
    times: int = 1
    happened: int = 0


class S3:
    """The server. Requests are answered one by one, as moto's checks of conditions are not atomic."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._stale: Listings | None = None
        self._ended = threading.Event()
        self.address = ""
        self.asked: list[tuple[str, str]] = []
        """The method and path of every request."""

    def url(self, prefix: str) -> str:
        """That of a store below a prefix."""
        return f"s3://{BUCKET}/{prefix}"

    def reset(self) -> None:
        """No fault, and no request yet."""
        self._faults.clear()
        self.asked.clear()

    def fail(self, method: str, part: str, how: How, times: int = 1) -> Fault:
        """Let the next requests fail; further faults come after this one."""
        fault = Fault(method=method, part=part, how=how, times=times)
        self._faults.append(fault)
        return fault

    @contextmanager
    def stale_lists(self, said: Listings | None = None) -> Iterator[Listings]:
        """Each listing says what it said before, if it is among those; else what is so now, from now on."""
        self._stale = {} if said is None else said
        try:
            yield self._stale
        finally:
            self._stale = None

    def end(self) -> None:
        self._ended.set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.asked.append((method, path))
            fault = self._next_fault(method, path)
            if fault is not None and fault.how is How.THROTTLED:
                return _error(start_response, "503 Slow Down", "SlowDown")
            if fault is not None and fault.how is How.REFUSED:
                return _error(start_response, "403 Forbidden", "AccessDenied")
            answer = self._listing(environ) if _lists(environ) else self._answer(environ)
        if fault is None:
            status, headers, body = answer
            start_response(status, headers)
            return [body]
        if fault.how is How.BROKEN:
            return _error(start_response, "500 Internal Server Error", "InternalError")
        if fault.how is How.HANGS:
            self._ended.wait()
        _cut(environ)

    def _next_fault(self, method: str, path: str) -> Fault | None:
        for fault in self._faults:
            if fault.happened < fault.times and fault.method == method and fault.part in path:
                fault.happened += 1
                return fault
        return None

    def _listing(self, environ: dict[str, Any]) -> Answer:
        if self._stale is None:
            return self._answer(environ)
        query = environ["QUERY_STRING"]
        if query not in self._stale:
            self._stale[query] = self._answer(environ)
        return self._stale[query]

    def _answer(self, environ: dict[str, Any]) -> Answer:
        head: list[Any] = []
        body = b"".join(self._app(environ, lambda *start: head.extend(start)))
        return head[0], head[1], body


def _lists(environ: dict[str, Any]) -> bool:
    return "list-type=2" in environ["QUERY_STRING"]


def _error(start_response: Callable[..., object], status: str, code: str) -> list[bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _cut(environ: dict[str, Any]) -> NoReturn:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("told to")


@contextmanager
def serving() -> Iterator[S3]:
    """The server on a free port of loopback, with an empty bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            pass

    s3 = S3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, s3, threaded=True, request_handler=Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    server.block_on_close = False  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    s3.address = f"http://127.0.0.1:{server.server_port}"
    opener = build_opener(ProxyHandler({}))
    try:
        opener.open(Request(f"{s3.address}/{BUCKET}", method="PUT")).close()
        yield s3
    finally:
        s3.end()
        server.shutdown()
        thread.join()
        server.server_close()
