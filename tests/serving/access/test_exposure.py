"""Who may see what a server says: the network, TLS, certificates on both sides."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner, Result

from corolla.commands.adapters import adapters
from corolla.commands.classify import classify
from corolla.commands.routes import routes
from petl_vit.errors import InvalidInput
from serving.access import exposure
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from serving.server import Server
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S, Running, World, encoded

OURS = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}


def ask(client: Client) -> Any:
    return client.classify([encoded(0)], route="lora", task="shapes")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_it_refuses_to_listen_beyond_this_machine_in_plain_text(world: World, host: str) -> None:
    with pytest.raises(InvalidInput, match="without TLS") as caught:
        Server(world.settings(host=host))
    assert caught.value.field == "host"


@pytest.mark.parametrize("field", ["host", "metrics_host"])
@pytest.mark.parametrize("text", ["", " ", "[]"])
def test_an_empty_address_is_called_empty(world: World, field: str, text: str) -> None:
    with pytest.raises(InvalidInput, match="the address is empty; name one") as caught:
        Server(world.settings(**{field: text}))
    assert caught.value.field == field


def test_a_flag_says_that_the_network_is_trusted(world: World) -> None:
    with Running(world.settings(host="0.0.0.0", insecure=True)) as running, running.client() as client:
        assert ask(client).route == "lora:2"


def test_tls_serves_those_who_trust_its_ca(world: World, certificates: Certificates) -> None:
    settings = world.settings(
        host="0.0.0.0",
        tls_certificate=certificates.path("server.pem"),
        tls_key=certificates.path("server.key"),
    )
    trusting = grpc.ssl_channel_credentials(certificates.read("ca.pem"))
    with Running(settings) as running:
        with running.client(credentials=trusting) as client:
            assert ask(client).route == "lora:2"
            assert client.serving()
        for credentials in (None, grpc.ssl_channel_credentials()):
            with (
                running.client(credentials=credentials, timeout_s=WAIT_S) as client,
                pytest.raises(RequestFailed) as caught,
            ):
                ask(client)
            assert caught.value.code == "UNAVAILABLE"


@pytest.fixture
def guarded(world: World, certificates: Certificates) -> Iterator[Running]:
    """A server that demands certificates of its clients."""
    settings = world.settings(
        tls_certificate=certificates.path("server.pem"),
        tls_key=certificates.path("server.key"),
        tls_client_ca=certificates.path("ca.pem"),
    )
    with Running(settings) as running:
        yield running


def test_mutual_tls_serves_those_with_a_certificate_by_its_ca(
    guarded: Running, certificates: Certificates
) -> None:
    ca = certificates.read("ca.pem")
    known = grpc.ssl_channel_credentials(ca, certificates.read("client.key"), certificates.read("client.pem"))
    with guarded.client(credentials=known) as client:
        assert ask(client).route == "lora:2"
    with (
        guarded.client(credentials=grpc.ssl_channel_credentials(ca), timeout_s=WAIT_S) as client,
        pytest.raises(RequestFailed) as caught,
    ):
        ask(client)
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("files", "field", "problem"),
    [
        ({"tls_certificate": "server.pem"}, "tls_certificate", "needs its key"),
        ({"tls_key": "server.key"}, "tls_certificate", "needs its key"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca", "over TLS only"),
        ({"tls_certificate": "server.pem", "tls_key": "client.key"}, "tls_certificate", "MISMATCH"),
        ({"tls_certificate": "server.key", "tls_key": "server.pem"}, "tls_certificate", "not a certificate"),
        ({"tls_certificate": "gone.pem", "tls_key": "server.key"}, "tls_certificate", "No such file"),
        (
            {"tls_certificate": "server.pem", "tls_key": "server.key", "tls_client_ca": "gone.pem"},
            "tls_client_ca",
            "No such file",
        ),
        (
            {"tls_certificate": "server.pem", "tls_key": "server.key", "tls_client_ca": "ca.key"},
            "tls_client_ca",
            "has no certificate",
        ),
    ],
)
def test_certificates_that_cannot_work_stop_the_start(
    world: World, certificates: Certificates, files: dict[str, str], field: str, problem: str
) -> None:
    paths = {name: certificates.path(file) for name, file in files.items()}

    with pytest.raises(InvalidInput, match=problem) as caught, Running(world.settings(**paths)):
        pass
    assert caught.value.field == field


@pytest.mark.parametrize("hours", [-9, 0, 9])
def test_a_certificate_out_of_its_time_is_said_at_the_start(
    world: World, certificates: Certificates, caplog: pytest.LogCaptureFixture, hours: int
) -> None:
    certificates.issue("moved", hours=hours)
    exposure.check(
        world.settings(tls_certificate=certificates.path("moved.pem"), tls_key=certificates.path("moved.key"))
    )
    said = [record.getMessage() for record in caplog.records if "moved.pem" in record.getMessage()]
    assert len(said) == (hours != 0)
    assert all({-9: "expired on", 9: "is not valid before"}[hours] in line for line in said)


@pytest.mark.parametrize(("file", "field"), [("marked.pem", "tls_certificate"), ("marked.key", "tls_key")])
def test_a_byte_order_mark_is_named_and_not_the_port(
    world: World, certificates: Certificates, file: str, field: str
) -> None:
    certificates.issue("marked")
    path = certificates.folder / file
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(InvalidInput, match="begins with a byte order mark") as caught:
        exposure.check(
            world.settings(
                tls_certificate=certificates.path("marked.pem"), tls_key=certificates.path("marked.key")
            )
        )
    assert caught.value.field == field


# The commands


def said(command: click.Command, running: Running, *words: str) -> Result:
    return CliRunner().invoke(command, [*words, "--server", running.address], standalone_mode=False)


def test_commands_show_a_certificate_to_a_server_that_asks(
    guarded: Running, certificates: Certificates, tmp_path: Path
) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(encoded(0))
    known = [f"--tls-{name}={certificates.path(file)}" for name, file in OURS.items()]

    result = said(classify, guarded, str(image), "--route", "lora", "--task", "shapes", *known)
    assert result.exception is None
    assert "in memory: 1 adapters" in said(adapters, guarded, "resident", *known).stdout
    assert "best" in said(routes, guarded, "list", *known).stdout
    mine = ("mine", "--task", "shapes", *known)
    assert said(routes, guarded, "put", mine[0], "lora", *mine[1:]).exception is None
    (change,) = json.loads(said(routes, guarded, "history", *mine, "--json").stdout)
    assert change["by"].startswith("client ipv4:127.0.0.1:")
    said(routes, guarded, "delete", *mine)

    unknown = said(adapters, guarded, "resident", "--timeout", str(WAIT_S), known[0]).exception
    assert isinstance(unknown, RequestFailed)
    assert unknown.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("files", "field", "problem"),
    [
        ({"certificate": "client.pem"}, "tls_certificate", "needs its key"),
        ({"key": "client.key"}, "tls_certificate", "needs its key"),
        ({"ca": "gone.pem"}, "tls_ca", "No such file"),
        ({"ca": "ca.key"}, "tls_ca", "has no certificate"),
        ({"certificate": "client.pem", "key": "server.key"}, "tls_certificate", "MISMATCH"),
        ({"certificate": "client.pem", "key": "gone.key"}, "tls_key", "No such file"),
    ],
)
def test_commands_refuse_certificates_that_cannot_work(
    running: Running, certificates: Certificates, files: dict[str, str], field: str, problem: str
) -> None:
    flags = [f"--tls-{name}={certificates.path(file)}" for name, file in files.items()]
    for command in (adapters, routes):
        error = said(command, running, "resident" if command is adapters else "list", *flags).exception
        assert isinstance(error, InvalidInput)
        assert error.field == field
        assert problem in str(error)
