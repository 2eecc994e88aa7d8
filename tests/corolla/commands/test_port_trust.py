"""`corolla watch` and `corolla monitor` read a metrics port over TLS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from corolla import status_reader
from serving.metrics.port import MetricsPort
from serving.metrics.port_tls import PortTls
from serving.monitor.pages import StatusPages
from tests.corolla.shell import Shell
from tests.serving.certificates import Certificates
from tests.serving.monitor.statuses import full
from tests.serving.world import new_metrics

WATCH = ("watch", "--once")
MONITOR = ("monitor", "--once", "--server-metrics")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    made.issue("server")
    return made


@pytest.fixture
def port(certificates: Certificates) -> Iterator[MetricsPort]:
    """Metrics and a status, over TLS."""
    tls = PortTls(Path(certificates.path("server.pem")), Path(certificates.path("server.key")))
    port = MetricsPort(new_metrics().registry, port=0, pages=StatusPages(full, fresh_s=0.0).pages, tls=tls)
    yield port
    port.close()


@pytest.mark.parametrize("words", [WATCH, MONITOR])
def test_an_https_address_is_read_with_its_authority_and_not_without(
    empty: Shell, port: MetricsPort, certificates: Certificates, words: tuple[str, ...]
) -> None:
    code, _, said = empty(*words, port.url)
    assert (code, "is not trusted" in said, "--tls-ca" in said) == (2, True, True)

    code, out, said = empty(*words, port.url, "--tls-ca", certificates.path("ca.pem"))
    assert (code, "not trusted" in said) == (0, False)
    assert "domain" in out


@pytest.mark.parametrize("words", [WATCH, MONITOR])
def test_the_authority_may_be_a_variable_as_for_calls(
    empty: Shell,
    port: MetricsPort,
    certificates: Certificates,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COROLLA_TLS_CA", certificates.path("ca.pem"))
    code, _, said = empty(*words, port.url)
    assert (code, "not trusted" in said) == (0, False)


@pytest.mark.parametrize("words", [WATCH, MONITOR])
def test_the_variable_means_nothing_to_an_address_in_plain_text(
    empty: Shell, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COROLLA_TLS_CA", "missing.pem")
    port = MetricsPort(new_metrics().registry, port=0, pages=StatusPages(full, fresh_s=0.0).pages)
    try:
        assert empty(*words, f"127.0.0.1:{port.port}")[0] == 0
    finally:
        port.close()


@pytest.mark.parametrize("words", [WATCH, MONITOR])
def test_an_authority_for_an_address_in_plain_text_is_refused(
    empty: Shell, port: MetricsPort, certificates: Certificates, words: tuple[str, ...]
) -> None:
    code, _, said = empty(*words, f"127.0.0.1:{port.port}", "--tls-ca", certificates.path("ca.pem"))
    assert code == 2
    assert f"--tls-ca: http://127.0.0.1:{port.port} is asked in plain text; write https://" in said


@pytest.mark.parametrize("words", [WATCH, MONITOR])
def test_plain_http_to_a_port_of_https_is_told_what_to_write(
    empty: Shell, port: MetricsPort, words: tuple[str, ...]
) -> None:
    code, _, said = empty(*words, f"127.0.0.1:{port.port}")
    assert code == 2
    assert "ask by https://" in said


def test_without_an_address_a_server_of_this_machine_is_found_by_https_too(
    empty: Shell, port: MetricsPort, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_reader, "MONITOR", "127.0.0.1:1")
    monkeypatch.setattr(status_reader, "SERVER", f"127.0.0.1:{port.port}")
    code, out, _ = empty(*WATCH, "--tls-ca", certificates.path("ca.pem"))
    assert code == 0
    assert "birds/best" in out
    code, _, said = empty(*WATCH)
    assert (code, "is not trusted" in said, "--tls-ca FILE" in said) == (2, True, True)
