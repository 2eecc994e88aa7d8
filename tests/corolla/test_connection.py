"""Which server a command acts on."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from corolla.commands.adapters import adapters
from corolla.commands.classify import classify
from corolla.commands.feedback import feedback
from corolla.commands.routes import routes
from petl_vit.errors import InvalidInput
from serving.access import exposure
from serving.client.messages import RequestFailed
from serving.settings import Settings
from tests.serving.access.listening import Listening
from tests.serving.certificates import Certificates
from tests.serving.world import Running, World, encoded


def typed(command: click.Command, *words: str) -> Result:
    return CliRunner().invoke(command, list(words), standalone_mode=False)


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(0))
    return str(path)


def test_a_variable_names_the_server_of_every_command(
    running: Running, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COROLLA_SERVER", running.address)
    monkeypatch.setenv("COROLLA_STORE", "/no/store")

    assert typed(classify, image, "--route", "lora", "--task", "shapes").exception is None
    assert "in memory" in typed(adapters, "resident").stdout
    assert "best" in typed(routes, "list").stdout
    assert "invalid" in typed(feedback, "not-an-id", "star").stdout


def test_what_is_typed_goes_before_the_variable(
    running: Running, world: World, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COROLLA_SERVER", "127.0.0.1:1")
    ask = [image, "--route", "lora", "--task", "shapes"]

    assert isinstance(typed(classify, *ask).exception, RequestFailed)
    assert typed(classify, *ask, "--server", running.address).exception is None
    assert "best" in typed(routes, "list", "--store", str(world.folder)).stdout
    refused = typed(routes, "list", "--store", str(world.folder), "--server", running.address).exception
    assert "give either --store or --server" in str(refused)


def test_an_empty_variable_is_as_good_as_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COROLLA_SERVER", "")
    monkeypatch.setenv("COROLLA_STORE", str(world.folder))

    assert "best" in typed(routes, "list").stdout


def test_variables_say_whom_to_trust_and_by_which_name(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.issue("elsewhere", "corolla.internal")
    pair = {"tls_certificate": "elsewhere.pem", "tls_key": "elsewhere.key"}
    with Listening(**{name: certificates.path(file) for name, file in pair.items()}) as server:
        monkeypatch.setenv("COROLLA_SERVER", server.address)
        monkeypatch.setenv("COROLLA_TLS_CA", certificates.path("ca.pem"))
        assert "add --tls-server-name corolla.internal" in str(typed(routes, "list").exception)
        monkeypatch.setenv("COROLLA_TLS_SERVER_NAME", "corolla.internal")
        reached = typed(routes, "list").exception
        assert isinstance(reached, RequestFailed)
        assert reached.code == "UNIMPLEMENTED"
    Settings.read({})  # a server on this machine does not mind them


@pytest.mark.parametrize("command", [adapters, routes])
def test_an_address_that_is_none_is_refused_by_its_flag(command: click.Command) -> None:
    word = "resident" if command is adapters else "list"
    refused = typed(command, word, "--server", "http://127.0.0.1:50051").exception

    assert isinstance(refused, InvalidInput)
    assert refused.field == "server"


# The address of a server


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("nobody.invalid", "'nobody.invalid' is not known as a name or an address"),
        ("10.0.0.999", "'10.0.0.999' is not known as a name or an address"),
        ("x" * 300, "is not known as a name or an address"),
        ("192.0.2.1", "cannot listen on 192.0.2.1: cannot assign requested address"),
        ("127.0.0.1:50051", "give the host alone, and its port by --port"),
        ("http://127.0.0.1", "give the host alone, and its port by --port"),
    ],
)
def test_a_wrong_host_is_not_blamed_on_a_port(host: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        exposure.check(Settings(host=host, port=0, metrics_port=0, insecure=True))

    if "not known" in said:
        with pytest.raises(InvalidInput, match="not known"):
            exposure.check(Settings(host=host, port=0, metrics_port=0))
    assert caught.value.field == "host"
    assert said in str(caught.value)
    assert "choose another --metrics-port" not in str(caught.value)


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.2", "localhost"])
def test_what_is_this_machine_needs_neither_tls_nor_a_flag(host: str) -> None:
    exposure.check(Settings(host=host, port=0, metrics_port=0))
