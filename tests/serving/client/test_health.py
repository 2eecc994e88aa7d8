"""The health command of containers."""

from collections.abc import Iterator

import pytest

from serving.client.health import main
from tests.serving.access.listening import Listening
from tests.serving.certificates import Certificates
from tests.serving.world import Running


def test_the_health_command_exits_0_when_the_server_serves(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([running.address]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["127.0.0.1:1"]) == 1
    assert "not serving: no connection to 127.0.0.1:1" in capsys.readouterr().err
    assert main([running.address, "more"]) == main(["http://here"]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.fixture
def secure(certificates: Certificates) -> dict[str, str]:
    """Settings of a server whose certificate is not for its address."""
    certificates.issue("elsewhere", "*.corolla.internal")
    paths = certificates.path("elsewhere.pem"), certificates.path("elsewhere.key")
    return {"tls_certificate": paths[0], "tls_key": paths[1]}


@pytest.fixture
def guarded(secure: dict[str, str], certificates: Certificates) -> Iterator[Listening]:
    with Listening(**secure, tls_client_ca=certificates.path("ca.pem")) as server:
        yield server


def test_a_server_of_this_machine_that_speaks_tls_needs_no_flags(secure: dict[str, str]) -> None:
    with Listening(**secure) as server:
        assert main([server.address]) == 0


def test_what_is_trusted_can_be_said(
    secure: dict[str, str], certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = ["--tls-ca", certificates.path("ca.pem")]
    with Listening(**secure) as server:
        assert main([server.address, *ca, "--tls-server-name", "a.corolla.internal"]) == 0
        assert main([server.address, *ca]) == 1
        assert "its certificate is for *.corolla.internal, not for 127.0.0.1" in capsys.readouterr().err
        assert main([server.address, "--tls-ca", certificates.path("gone.pem")]) == 2
        assert main([server.address, "--tls-key", certificates.path("client.key")]) == 2


def test_a_server_that_asks_for_certificates_is_shown_one(
    guarded: Listening, certificates: Certificates
) -> None:
    shown = [
        "--tls-certificate",
        certificates.path("client.pem"),
        "--tls-key",
        certificates.path("client.key"),
    ]

    assert main([guarded.address]) == 1
    assert main([guarded.address, *shown]) == 0


def test_the_server_of_the_container_is_found_by_the_variables_that_it_reads(
    secure: dict[str, str], guarded: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COROLLA_HOST", "0.0.0.0")
    monkeypatch.setenv("COROLLA_PORT", guarded.address.rpartition(":")[2])
    for name, path in secure.items():
        monkeypatch.setenv(f"COROLLA_{name.upper()}", path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    assert main([]) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("COROLLA_PORT", "tcp://10.43.1.39:50051"), ("COROLLA_HOST", "")]
)
def test_service_links_and_empty_variables_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setattr("serving.client.health.DEFAULT_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv(name, value)

    assert main([]) == 1
    assert "no connection to 127.0.0.1:1: " in capsys.readouterr().err


def test_a_server_on_a_socket_is_found_too(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with Listening(host=f"unix:{tmp_path}/corolla.sock") as server:
        monkeypatch.setenv("COROLLA_HOST", server.address)
        assert main([]) == 0
