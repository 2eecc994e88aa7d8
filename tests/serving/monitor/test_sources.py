"""Readings of one server, over HTTP and within its process."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from petl_vit.errors import InvalidInput, Unreachable
from serving.metrics.port import MetricsPort
from serving.monitor.samples import Reading, Source
from serving.monitor.sources import OwnSource, ServerSource
from tests.serving.monitor.world import DOMAIN, ROUTE


def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    answered = Counter(
        "corolla_predictions_total", "Images answered.", ["route", "domain"], registry=registry
    )
    answered.labels(ROUTE, DOMAIN).inc(7)
    Gauge("process_start_time_seconds", "Start.", registry=registry).set(12.5)
    Gauge("corolla_queue_rows", "Not read.", registry=registry).set(3)
    return registry


@contextmanager
def port(registry: CollectorRegistry) -> Iterator[int]:
    served = MetricsPort(registry, port=0)
    try:
        yield served.port
    finally:
        served.close()


def seen(reading: Reading) -> set[tuple[str, float]]:
    return {(one.name, one.value) for one in reading.samples}


EXPECTED = {("corolla_predictions_total", 7.0), ("process_start_time_seconds", 12.5)}


@pytest.mark.parametrize("url", ["127.0.0.1:{}", "http://127.0.0.1:{}/", "http://127.0.0.1:{}/metrics"])
def test_a_server_is_read_at_its_metrics_port(url: str) -> None:
    with port(registry()) as number:
        source: Source = ServerSource(url.format(number), clock=lambda: 99.0)
        reading = source.read()

    assert (reading.at, reading.problems, seen(reading)) == (99.0, (), EXPECTED)
    labels = {one.name: dict(one.labels) for one in reading.samples}
    assert labels["corolla_predictions_total"] == {"route": ROUTE, "domain": DOMAIN}
    assert source.name == f"http://127.0.0.1:{number}/metrics"
    assert [*source.history(0.0)] == []


def test_the_registry_of_this_process_is_read_without_a_port() -> None:
    source: Source = OwnSource(registry(), clock=lambda: 99.0)

    assert seen(source.read()) == EXPECTED
    assert [*source.history(0.0)] == []


def test_a_port_without_metrics_of_corolla_is_said() -> None:
    with port(CollectorRegistry()) as number:
        reading = ServerSource(f"127.0.0.1:{number}").read()

    assert "has no metrics of Corolla" in reading.problems[0]


def test_a_password_in_the_url_is_not_shown() -> None:
    source = ServerSource("http://me:secret@host:9090")

    assert source.name == "http://host:9090/metrics"


@pytest.mark.parametrize("url", ["", "http://", "file:///etc/passwd", "host:port", "http://host:99999"])
def test_what_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="is not a URL"):
        ServerSource(url)


class _Page(BaseHTTPRequestHandler):
    body, status = b"", 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    handler = type("Page", (_Page,), {"body": body, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_nothing_that_listens_is_unreachable_and_says_where() -> None:
    with port(CollectorRegistry()) as number:
        pass

    with pytest.raises(Unreachable, match=f"http://127.0.0.1:{number}/metrics does not answer: .*refused"):
        ServerSource(f"127.0.0.1:{number}").read()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"<html>{nothing</html>", 200, "does not answer with metrics"),
        (b"\xff\xfe", 200, "does not answer with metrics"),
        (b"no such page", 404, "answers 404: no such page"),
        (b"", 503, "answers 503: Service Unavailable"),
    ],
)
def test_something_else_that_answers_is_said(body: bytes, status: int, said: str) -> None:
    with answering(body, status) as url, pytest.raises(Unreachable, match=said):
        ServerSource(url).read()
