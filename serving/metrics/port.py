"""The metrics port: what Prometheus scrapes, and the probes of orchestrators and load balancers, over HTTP.

`/metrics` are the metrics, in the format and encoding that the scraper asks for; `?name[]=` shows only the
named ones. `/healthz` is 200 while the process lives. `/readyz` is 200 while requests are served, else 503
with the reason. Whoever opens the port may add pages. All take GET and HEAD, with or without a slash at
the end; any other path is 404. Where there are tokens, all but the probes are 401 without one of them. With a
certificate all of it is HTTPS; each connection shakes hands in its own thread, so that none delays another.
"""

import gzip
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from socket import SOCK_STREAM, AddressFamily, getaddrinfo
from socketserver import TCPServer, ThreadingMixIn
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector

from petl_vit.errors import CorollaError, InvalidInput
from serving.address import joined
from serving.metrics.port_tls import PortTls
from serving.metrics.port_tokens import PortTokens

_log = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"
_METHODS = ("GET", "HEAD", "OPTIONS")
_IDLE_S = 30.0  # a connection that says nothing is closed
_POLL_S = 0.1  # until a call to close is seen
_SLICE = 100  # samples written before other threads get their turn
_PAUSE_S = 0.0002
_LEVEL = 1  # of compression: four times as fast as the default, for a tenth more bytes
_BODY_BYTES = 2**16  # of a request, which nothing needs
_PROBES = ("/healthz", "/readyz")


_Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a page says."""

    status: str = "200 OK"
    headers: _Headers = (("Content-Type", _TEXT),)
    body: bytes = b""


_UNAUTHORISED = Answer(
    status="401 Unauthorized",
    headers=(("Content-Type", _TEXT), ("WWW-Authenticate", 'Bearer realm="corolla"')),
    body=b"send a token of the server's --metrics-token-file, as `Authorization: Bearer TOKEN`\n",
)

Page = Callable[[], Answer]
"""Called from other threads, at every request."""


class MetricsPort:
    """Answers from separate threads, until it is closed.

    Args:
        registry: The metrics.
        port: 0 picks a free one; `port` says which.
        host: An address or a name.
        unready: Why requests are not served at this moment; None while they are. Called from other threads.
        pages: Others, by path.
        tokens: Who may see the metrics and the pages; None is whoever asks.
        tls: The certificate that it shows; None is HTTP in plain text.

    Raises:
        InvalidInput: The address cannot be listened on.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        port: int,
        host: str = "127.0.0.1",
        unready: Callable[[], str | None] = lambda: None,
        pages: Mapping[str, Page] | None = None,
        tokens: PortTokens | None = None,
        tls: PortTls | None = None,
    ) -> None:
        self._registry, self._unready, self._tokens = registry, unready, tokens
        self._rendering = (
            Lock()
        )  # one scrape after the other: two at once take as long, and longer from others
        self._pages: dict[str, Callable[[WSGIEnvironment], Answer]] = {
            "/metrics": self._metrics,
            "/healthz": lambda _: Answer(body=b"ok\n"),
            "/readyz": lambda _: self._ready(),
        }
        self._pages |= {path: partial(_packed, page) for path, page in (pages or {}).items()}
        try:
            self._server = _listening(host, port, self._answer, tls)
        except OSError as error:
            problem = f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}"
            remedy = "choose another --metrics-port, or 0 for a free one"
            raise InvalidInput(problem, field="metrics_port", remedy=remedy) from error
        self.port = self._server.server_port
        self.url = f"http{'' if tls is None else 's'}://{joined(host, self.port)}"
        self._thread = Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics port", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Frees the port. Blocks for a moment."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].rstrip("/") or "/"
        page = self._pages.get(path)
        if path not in _PROBES and not self._allows(environ):
            answer = _UNAUTHORISED
        elif page is None:
            text = f"{environ['PATH_INFO']} is not a page of this port; it has {', '.join(self._pages)}\n"
            answer = Answer(status="404 Not Found", body=text.encode("utf-8", "replace"))
        elif method in ("GET", "HEAD"):
            answer = _answered(page, environ)
        else:
            status = "200 OK" if method == "OPTIONS" else "405 Method Not Allowed"
            answer = Answer(status=status, headers=(("Allow", ", ".join(_METHODS)),))
        _skip_body(environ)
        length = ("Content-Length", str(len(answer.body)))
        start(answer.status, [*answer.headers, ("Cache-Control", "no-store"), length])
        return [] if method == "HEAD" else [answer.body]

    def _allows(self, environ: WSGIEnvironment) -> bool:
        """Whether a request may see what is not a probe; not while the file of tokens cannot be used."""
        if self._tokens is None:
            return True
        try:
            return self._tokens.allow(environ.get("HTTP_AUTHORIZATION", ""))
        except CorollaError as error:
            _log.warning("nobody is shown metrics: %s", error)
            return False

    def _ready(self) -> Answer:
        reason = self._unready()
        if reason is None:
            return Answer(body=b"ok\n")
        return Answer(status="503 Service Unavailable", body=f"{reason}\n".encode())

    def _metrics(self, environ: WSGIEnvironment) -> Answer:
        names = parse_qs(environ.get("QUERY_STRING", "")).get("name[]")
        # Types say that a header is there always; the functions take None where it is not.
        encoder, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        shown = self._registry if names is None else self._registry.restricted_registry(_with_parts(names))
        with self._rendering:
            headers = (("Content-Type", kind), ("Vary", "Accept, Accept-Encoding"))
            return _packed(lambda: Answer(headers=headers, body=encoder(Paced(shown))), environ)


def _answered(page: Callable[[WSGIEnvironment], Answer], environ: WSGIEnvironment) -> Answer:
    """What a page says; a fault of it is told, and ends nothing else."""
    try:
        return page(environ)
    except Exception:
        _log.exception("%s could not be written", environ["PATH_INFO"])
        text = b"a fault of corolla: this page could not be written; the log has the traceback\n"
        return Answer(status="500 Internal Server Error", body=text)


def _packed(page: Page, environ: WSGIEnvironment) -> Answer:
    """What a page says, compressed for those who take that."""
    answer = page()
    if not gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
        return answer
    headers = (*answer.headers, ("Content-Encoding", "gzip"))
    return replace(answer, headers=headers, body=gzip.compress(answer.body, _LEVEL))


class Paced(Collector):
    """The metrics of a registry, read with pauses, so that no other thread waits long for the interpreter."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = _Pausing(metric.samples)
            yield metric


class _Pausing(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(super().__iter__()):
            if number % _SLICE == _SLICE - 1:
                time.sleep(_PAUSE_S)
            yield item


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(
        self, family: AddressFamily, address: Any, answer: WSGIApplication, tls: PortTls | None
    ) -> None:
        self.address_family, self._tls = family, tls
        super().__init__(address, _Handler)
        self.set_app(answer)

    def server_bind(self) -> None:
        """As HTTPServer's, but without asking for this machine's name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers one connection, in its own thread."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        connection = self._tls.handshake(request)
        if connection is not None:
            try:
                super().finish_request(connection, client_address)
            finally:
                self.shutdown_request(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or said nothing for too long: nothing to be told on stderr."""
        _log.debug("a connection to the metrics port ended early", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _IDLE_S

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing about each request."""


def _listening(host: str, port: int, answer: WSGIApplication, tls: PortTls | None) -> _Server:
    """A server on the first address of the host that can be bound.

    Raises:
        OSError: None can be.
    """
    problem: OSError | None = None
    for family, _, _, _, address in getaddrinfo(host, port, type=SOCK_STREAM):
        try:
            return _Server(family, address, answer, tls)
        except OSError as error:
            problem = problem or error
    assert problem is not None, "getaddrinfo found nothing and did not say so"
    raise problem


def _skip_body(environ: WSGIEnvironment) -> None:
    """Reads what a request brought: closing a connection with unread bytes would take its answer along."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if length.isdecimal() and int(length):
        environ["wsgi.input"].read(min(int(length), _BODY_BYTES))


def _with_parts(names: list[str]) -> list[str]:
    """Names of series, and those of the series of a metric that is named as docs/metrics.md names it."""
    return [name + part for name in names for part in ("", "_bucket", "_sum", "_count")]
