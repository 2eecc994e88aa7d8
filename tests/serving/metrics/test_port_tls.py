"""The metrics port over TLS: what it answers, renewed certificates, and clients that speak none or stall."""

import http.client
import logging
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from serving.metrics import port_tls
from serving.metrics.port import MetricsPort
from serving.metrics.port_tls import PortTls
from serving.metrics.port_tokens import PortTokens
from tests.prometheus import Prometheus
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S, new_metrics

_CLIENT_HELLO = b"\x16\x03\x01"


@pytest.fixture
def port(certificates: Certificates) -> Iterator[MetricsPort]:
    tls = PortTls(Path(certificates.path("server.pem")), Path(certificates.path("server.key")))
    port = MetricsPort(new_metrics().registry, port=0, tls=tls)
    yield port
    port.close()


@pytest.fixture
def renewed(tmp_path: Path) -> Certificates:
    """Certificates by another authority."""
    (tmp_path / "renewed").mkdir()
    made = Certificates(tmp_path / "renewed")
    made.issue("server")
    return made


def ask(port: MetricsPort, trusted: Certificates, path: str = "/healthz") -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=trusted.path("ca.pem"))
    connection = http.client.HTTPSConnection("127.0.0.1", port.port, timeout=WAIT_S, context=context)
    connection.request("GET", path)
    answer = connection.getresponse()
    said = answer.status, answer.read()
    connection.close()
    return said


def test_metrics_and_probes_are_served_to_those_who_trust_the_authority(
    port: MetricsPort, certificates: Certificates, renewed: Certificates
) -> None:
    assert port.url == f"https://127.0.0.1:{port.port}"
    status, text = ask(port, certificates, "/metrics")
    assert status == 200
    assert b"\ncorolla_ready 0.0\n" in text
    assert ask(port, certificates, "/healthz") == ask(port, certificates, "/readyz") == (200, b"ok\n")
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(port, renewed)


def test_a_real_prometheus_scrapes_it_with_the_authority_the_name_and_a_token(
    certificates: Certificates, tmp_path: Path
) -> None:
    certificates.issue("pod", "corolla.example")
    token = tmp_path / "token"
    token.write_text("f00d" * 8)
    tls = PortTls(Path(certificates.path("pod.pem")), Path(certificates.path("pod.key")))
    scrape = {
        "scheme": "https",
        "tls_config": {"ca_file": certificates.path("ca.pem"), "server_name": "corolla.example"},
        "authorization": {"credentials_file": str(token)},
    }
    with (
        closing(MetricsPort(new_metrics().registry, port=0, tokens=PortTokens(token), tls=tls)) as port,
        Prometheus([port.port], tmp_path, scrape=scrape) as prometheus,
    ):
        assert prometheus.query("corolla_ready")[0][0]["instance"] == f"127.0.0.1:{port.port}"


def test_new_connections_get_a_renewed_certificate(
    port: MetricsPort, certificates: Certificates, renewed: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shutil.copyfile(renewed.path("server.pem"), certificates.path("server.pem"))
    assert ask(port, certificates)[0] == 200, "the key has not come yet"
    assert "the one before goes on" in caplog.text

    shutil.copyfile(renewed.path("server.key"), certificates.path("server.key"))
    assert ask(port, renewed)[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(port, certificates)
    assert caplog.text.count("renewed certificate") == 1


@pytest.mark.parametrize(
    "said", [b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n", b"\x00"]
)
def test_plain_http_is_told_that_the_port_speaks_https(
    port: MetricsPort, certificates: Certificates, said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", port.port), WAIT_S) as plain:
        plain.sendall(said)
        answer = b"".join(iter(lambda: plain.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"HTTPS" in answer
    assert b"corolla_" not in answer
    assert ask(port, certificates)[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("said", [b"", _CLIENT_HELLO, b"\x16garbage that is not TLS"])
def test_clients_that_stall_or_speak_no_tls_keep_nobody_waiting(
    port: MetricsPort,
    certificates: Certificates,
    said: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(port_tls, "_HANDSHAKE_S", 10 * WAIT_S)
    with ExitStack() as stalled:
        for _ in range(8):
            client = stalled.enter_context(socket.create_connection(("127.0.0.1", port.port), WAIT_S))
            client.sendall(said)
        assert ask(port, certificates, "/metrics")[0] == 200
    assert ask(port, certificates)[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("said", [b"", _CLIENT_HELLO])
def test_a_client_that_stalls_is_cut_off(
    port: MetricsPort, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_tls, "_HANDSHAKE_S", 0.1)
    with socket.create_connection(("127.0.0.1", port.port), WAIT_S) as stalled:
        stalled.sendall(said)
        assert stalled.recv(1000) == b""


def test_files_that_are_no_pair_are_refused(certificates: Certificates) -> None:
    with pytest.raises(InvalidInput, match="KEY_VALUES_MISMATCH") as caught:
        PortTls(Path(certificates.path("server.pem")), Path(certificates.path("client.key")))
    assert caught.value.field == "tls_certificate"
