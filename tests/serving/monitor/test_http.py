"""Questions over HTTP."""

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
from prometheus_client import CollectorRegistry

from petl_vit.errors import InvalidInput, Unreachable
from serving.metrics.port import Answer, MetricsPort
from serving.metrics.port_tls import PortTls
from serving.monitor import http
from tests.serving.certificates import Certificates


def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    port = MetricsPort(CollectorRegistry(), port=0)
    try:
        assert http.read(f"http://127.0.0.1:{port.port}/healthz", headers={}) == b"ok\n"
    finally:
        port.close()


@pytest.mark.parametrize("text", ["", "ftp://x:1", "http://", "x:port", "http://x:0"])
def test_what_is_not_a_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a URL"):
        http.base_url(text, "address")


def test_what_answers_without_http_is_told_as_that_and_not_in_its_own_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def speak() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x00\x00\x18\x04\x00\x00")

        other = Thread(target=speak)
        other.start()
        with pytest.raises(Unreachable, match="does not answer with HTTP") as raised:
            http.read(f"http://127.0.0.1:{port}/metrics", headers={})
        other.join()

    assert "\x00" not in str(raised.value)
    assert "--metrics-port" in str(raised.value.remedy)


def test_a_password_is_not_shown() -> None:
    assert http.shown("http://ann:secret@[::1]:9090/x?y=1") == "http://[::1]:9090/x"


def test_a_redirect_is_not_followed_for_the_headers_are_not_meant_for_others() -> None:
    asked: list[str] = []

    def sends_on() -> Answer:
        asked.append("/")
        return Answer(status="302 Found", headers=(("Location", "/healthz?key=secret"),))

    port = MetricsPort(CollectorRegistry(), port=0, pages={"/query": sends_on})
    url = f"http://127.0.0.1:{port.port}"
    try:
        with pytest.raises(Unreachable, match=f"/query sends on to {url}/healthz, where") as raised:
            http.read(f"{url}/query", headers={"Authorization": "Bearer x"})
    finally:
        port.close()

    assert asked == ["/"]
    assert "give the address" in str(raised.value.remedy)


def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BYTES", 2**20)
    sizes = {"/most": 2**20, "/more": 2**20 + 1}

    def page(size: int) -> Answer:
        return Answer(body=b"x" * size)

    pages = {path: partial(page, size) for path, size in sizes.items()}
    port = MetricsPort(CollectorRegistry(), port=0, pages=pages)
    url = f"http://127.0.0.1:{port.port}"
    try:
        assert len(http.read(f"{url}/most", headers={})) == 2**20
        with pytest.raises(Unreachable, match="/more answers with more than 1 MiB"):
            http.read(f"{url}/more", headers={})
    finally:
        port.close()


# Over TLS


@pytest.fixture
def secured(certificates: Certificates) -> Iterator[MetricsPort]:
    """A port whose certificate is for another name than its address."""
    certificates.issue("pod", "corolla.example")
    tls = PortTls(Path(certificates.path("pod.pem")), Path(certificates.path("pod.key")))
    port = MetricsPort(CollectorRegistry(), port=0, tls=tls)
    yield port
    port.close()


def test_a_certificate_is_trusted_by_its_authority_and_its_name(
    secured: MetricsPort, certificates: Certificates
) -> None:
    ca, url = Path(certificates.path("ca.pem")), f"{secured.url}/healthz"
    assert http.read(url, headers={}, trust=http.Trust(ca=ca, server_name="corolla.example")) == b"ok\n"
    for trust in (None, http.Trust(ca=ca), http.Trust(server_name="corolla.example")):
        with pytest.raises(Unreachable, match="shows a certificate that is not trusted") as caught:
            http.read(url, headers={}, trust=trust)
        assert "--tls-ca FILE; another name in it by --tls-server-name" in str(caught.value)


def test_the_other_scheme_is_named_where_it_is_the_right_one(secured: MetricsPort) -> None:
    with pytest.raises(Unreachable, match=r"answers 400: .*; ask by https://"):
        http.read(f"http://127.0.0.1:{secured.port}/healthz", headers={})
    port = MetricsPort(CollectorRegistry(), port=0)
    try:
        with pytest.raises(Unreachable, match=r"does not answer by TLS: .*; ask by http://"):
            http.read(f"https://127.0.0.1:{port.port}/healthz", headers={})
    finally:
        port.close()


def test_a_file_without_an_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(InvalidInput, match="has no certificate") as caught:
        http.Trust(ca=tmp_path / "ca.pem")
    assert caught.value.field == "tls_ca"
