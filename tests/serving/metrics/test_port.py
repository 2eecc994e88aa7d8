"""What the metrics port answers, by path, method and header."""

import gzip
import http.client
import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from petl_vit.errors import InvalidInput
from serving.metrics.port import MetricsPort
from tests.serving.world import WAIT_S, new_metrics


class Port:
    """A port over the metrics of a server that just started; `reason` is why it does not serve."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.port = MetricsPort(new_metrics().registry, port=0, unready=lambda: self.reason)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port.port, timeout=WAIT_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=named)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        return answer, said


@pytest.fixture(scope="module")
def opened() -> Iterator[Port]:
    opened = Port()
    yield opened
    opened.port.close()


@pytest.fixture
def port(opened: Port) -> Port:
    opened.reason = None
    return opened


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/metrics?x=1"])
def test_the_metrics_are_at_their_path(port: Port, path: str) -> None:
    answer, text = port.ask(path)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\ncorolla_ready 0.0\n" in text


@pytest.mark.parametrize("path", ["/", "/ready", "/nonsense", "/metrics/x", "/favicon.ico", "/%ff"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_any_other_path_is_not_found_and_names_the_pages(port: Port, path: str, method: str) -> None:
    answer, text = port.ask(path, method)
    assert answer.status == 404
    assert text == b"" if method == "HEAD" else b"it has /metrics, /healthz, /readyz\n" in text


@pytest.mark.parametrize("path", ["/readyz", "/readyz/", "/readyz?verbose=1"])
@pytest.mark.parametrize("reason", ["starting", "draining", "stalled"])
def test_readiness_is_503_with_the_reason_and_life_is_200_all_the_time(
    port: Port, path: str, reason: str
) -> None:
    assert [(answer.status, text) for answer, text in [port.ask(path)]] == [(200, b"ok\n")]
    port.reason = reason
    answer, text = port.ask(path)
    assert (answer.status, text) == (503, f"{reason}\n".encode())
    assert port.ask(path, "HEAD")[0].status == 503
    answer, text = port.ask("/healthz")
    assert (answer.status, text) == (200, b"ok\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_head_is_get_without_its_body(port: Port, path: str) -> None:
    answer, text = port.ask(path, "HEAD")
    full, body = port.ask(path)
    assert (answer.status, text) == (200, b"")
    assert answer.headers["Content-Type"] == full.headers["Content-Type"]
    # Numbers of the process, such as its CPU time, differ from one scrape to the next.
    assert abs(int(answer.headers["Content-Length"]) - len(body)) < 100


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
@pytest.mark.parametrize(("method", "body"), [("POST", b"x" * 50_000), ("PUT", b""), ("DELETE", None)])
def test_other_methods_are_not_allowed(port: Port, path: str, method: str, body: bytes | None) -> None:
    answer, _ = port.ask(path, method, body)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_options_says_which_methods_there_are(port: Port) -> None:
    answer, text = port.ask("/metrics", "OPTIONS")
    assert (answer.status, answer.headers["Allow"], text) == (200, "GET, HEAD, OPTIONS", b"")


@pytest.mark.parametrize("encoding", ["gzip", "deflate, gzip;q=0.5"])
def test_a_scraper_that_takes_gzip_gets_it(port: Port, encoding: str) -> None:
    answer, packed = port.ask("/metrics", Accept_Encoding=encoding)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert b"corolla_ready 0.0" in gzip.decompress(packed)


def test_a_scraper_that_asks_for_openmetrics_gets_that(port: Port) -> None:
    answer, text = port.ask("/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "corolla_ready" in {family.name for family in text_string_to_metric_families(text.decode())}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name[]=corolla_ready", {"corolla_ready"}),
        ("name%5B%5D=corolla_ready&name[]=corolla_queue_rows", {"corolla_ready", "corolla_queue_rows"}),
        ("name[]=corolla_requests_total", set()),  # which has no series yet
        ("name[]=corolla_batch_rows_sum", {"corolla_batch_rows_sum"}),
        ("name[]=corolla_batch_rows", {f"corolla_batch_rows_{part}" for part in ("bucket", "sum", "count")}),
        ("name[]=nothing", set()),
    ],
)
def test_named_series_are_shown_alone(port: Port, query: str, names: set[str]) -> None:
    answer, text = port.ask(f"/metrics?{query}")
    assert answer.status == 200
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    assert {line.replace("{", " ").split()[0] for line in lines} == names


def test_a_client_that_says_nothing_or_goes_away_keeps_nobody_waiting(
    port: Port, capfd: pytest.CaptureFixture[str]
) -> None:
    address = ("127.0.0.1", port.port.port)
    with socket.create_connection(address), socket.create_connection(address) as hasty:
        hasty.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        hasty.close()
        assert port.ask("/healthz")[0].status == 200
    with socket.create_connection(address) as garbled:
        garbled.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        assert b"400" in garbled.recv(1000)
    assert port.ask("/healthz")[0].status == 200
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_the_users_to_change(port: Port) -> None:
    with pytest.raises(InvalidInput, match=r"cannot listen on .* choose another --metrics-port") as caught:
        MetricsPort(new_metrics().registry, port=port.port.port)
    assert caught.value.field == "metrics_port"


def test_a_closed_port_is_free() -> None:
    port = MetricsPort(new_metrics().registry, port=0)
    port.close()
    MetricsPort(new_metrics().registry, port=port.port).close()
