"""Tokens their whole way: made on the command line, shown by every client, renewed and ended under way."""

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from prometheus_client import generate_latest

from corolla.command import corolla, run
from corolla.group import CommandGroup
from serving.client.admin import AdminClient
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.credentials import credentials
from serving.client.health import main as health
from serving.client.messages import RequestFailed, request_of
from tests.serving.access.callers import secret_of
from tests.serving.certificates import Certificates
from tests.serving.triton_client import tritonclient
from tests.serving.world import WAIT_S, Running, World, encoded, until

TRITON_ERROR = tritonclient.InferenceServerException
Run = Callable[..., None]


class Site:
    """A server over TLS that follows a file of principals, and what people have in front of it."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.folder, self.certificates = folder, certificates
        self.principals = folder / "principals.json"
        self.image = folder / "image.png"
        self.image.write_bytes(encoded(0))
        self.secrets: list[str] = []
        self.running: Running

    def tokens(self, *words: str) -> None:
        """`corolla tokens WORDS`."""
        assert run(["tokens", *words, "--principals", str(self.principals)]) == 0

    def issue(self, *words: str, to: str) -> Path:
        """The file of a token that `corolla tokens WORDS` issues."""
        path = self.folder / to
        self.tokens(*words, "--out", str(path), "--overwrite")
        self.secrets.append(secret_of(path.read_text().strip()))
        return path

    @property
    def tls(self) -> dict[str, Any]:
        return {"credentials": credentials(ca=self.certificates.folder / "ca.pem"), "timeout_s": WAIT_S}

    def client(self, token: Path | None) -> Client:
        return Client(self.running.address, token=token, **self.tls)

    def typed(self, *words: str, token: Path) -> int:
        """The exit code of `corolla WORDS` to the server."""
        flags = ["--tls-ca", self.certificates.path("ca.pem"), "--token-file", str(token)]
        return run([*words, "--server", self.running.address, *flags])

    def triton(self, token: Path) -> list[int]:
        """The classes that NVIDIA's own client gets."""
        image = tritonclient.InferInput("images", [1], "BYTES")
        image.set_data_from_numpy(np.array([encoded(0)], dtype=np.object_))
        authority = self.certificates.path("ca.pem")
        shown = {"authorization": f"Bearer {token.read_text().strip()}"}
        with tritonclient.InferenceServerClient(
            self.running.address, ssl=True, root_certificates=authority
        ) as client:
            answer = client.infer("shapes/lora", [image], headers=shown, client_timeout=WAIT_S)
            return [int(number) for number in answer.as_numpy("class_index").ravel()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    certificates = Certificates(folder)
    certificates.issue("server")
    site = Site(folder, certificates)
    site.issue("create", "first", "--scope", "infer", to="first.token")
    settings = World.make(folder / "store").settings(
        tls_certificate=certificates.path("server.pem"),
        tls_key=certificates.path("server.key"),
        principals=str(site.principals),
        refresh_s=0.05,
    )
    with Running(settings) as site.running:
        yield site


def lets_in(client: Client) -> bool:
    """Whether a call goes through; any refusal but that of a stranger is a fault."""
    try:
        client.classify([encoded(0)], route="lora", task="shapes")
    except RequestFailed as error:
        return _a_stranger(error)
    return True


def _a_stranger(error: RequestFailed) -> bool:
    assert error.code == "UNAUTHENTICATED", error
    return False


def test_a_token_is_good_for_every_client_until_it_is_revoked(site: Site) -> None:
    app = site.issue("create", "app", "--scope", "infer", "--scope", "feedback", to="app.token")
    classify = ["classify", str(site.image), "--route", "lora", "--task", "shapes"]
    with site.client(app) as client:
        until(lambda: lets_in(client))
        answer = client.classify([encoded(0)], route="lora", task="shapes")
        request = request_of([encoded(0)], route="lora", task="shapes")
        assert [not isinstance(said, RequestFailed) for _, said in client.stream([("1", request)])] == [True]
        (told,) = client.feedback([(answer.results[0].prediction_id, "star")]).results
        assert not told.message
        assert site.triton(app) == [answer.results[0].top[0].class_index]
        assert site.typed(*classify, token=app) == 0
        with pytest.raises(RequestFailed, match="app does not have the scope admin") as denied:
            AdminClient(client).list_adapters()
        assert denied.value.code == "PERMISSION_DENIED"

        site.tokens("revoke", "app")
        until(lambda: not lets_in(client))
        with pytest.raises(TRITON_ERROR, match="the token was revoked"):
            site.triton(app)
        assert site.typed(*classify, token=app) == 2
    assert health([site.running.address]) == 0


def test_a_client_follows_a_rotated_token_and_the_one_before_ends(site: Site) -> None:
    current = site.issue("create", "ops", "--scope", "admin", to="ops.token")
    before = site.folder / "before.token"
    before.write_text(current.read_text())
    with site.client(current) as follows, site.client(before) as keeps:
        until(lambda: answers(AdminClient(follows)))
        site.issue("rotate", "ops", "--overlap", "1h", to="ops.token")
        until(lambda: answers(AdminClient(follows)))
        assert answers(AdminClient(keeps))  # which may go on for an hour

        site.issue("rotate", "ops", "--overlap", "0s", to="ops.token")
        until(lambda: not answers(AdminClient(keeps)))
        until(lambda: answers(AdminClient(follows)))
    assert site.typed("adapters", "resident", token=current) == 0
    assert site.typed("adapters", "resident", token=before) == 2


def answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_adapters().adapters)
    except RequestFailed as error:
        return _a_stranger(error)


async def test_the_client_on_asyncio_shows_its_token_too(site: Site) -> None:
    async with AsyncClient(site.running.address, token=site.folder / "first.token", **site.tls) as client:
        answer = await client.classify([encoded(0)], route="lora", task="shapes")
    assert answer.results[0].top


def test_the_variable_holds_a_token_for_the_command_line(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classify = ["classify", str(site.image), "--route", "lora", "--task", "shapes"]
    monkeypatch.setenv("COROLLA_SERVER", site.running.address)
    monkeypatch.setenv("COROLLA_TLS_CA", site.certificates.path("ca.pem"))
    assert run(classify) == 2
    assert "the call shows no token; give the client a token" in capsys.readouterr().err
    monkeypatch.setenv("COROLLA_TOKEN", (site.folder / "first.token").read_text())
    assert run(classify) == 0
    monkeypatch.setenv("COROLLA_TOKEN_FILE", str(site.folder / "first.token"))
    assert run(classify) == 2
    assert "COROLLA_TOKEN: it is set, and COROLLA_TOKEN_FILE too" in capsys.readouterr().err


# Where no token ever stands


def test_no_token_stands_in_logs_errors_metrics_pages_tracebacks_or_files(
    site: Site, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    token = site.issue("create", "watched", "--scope", "infer", to="watched.token")
    errors: list[BaseException] = []
    with site.client(token) as client:
        until(lambda: lets_in(client))
        for wrong in (
            lambda: client.classify([b"no image"], route="lora +", task="shapes"),
            lambda: client.classify([encoded(0)], route="nowhere", task="shapes"),
            lambda: AdminClient(client).reload(),
        ):
            with pytest.raises(RequestFailed) as caught:
                wrong()
            errors.append(caught.value)
        site.tokens("revoke", "watched")
        until(lambda: not lets_in(client))
        with pytest.raises(RequestFailed) as caught:
            client.classify([encoded(0)], route="lora", task="shapes")
        errors.append(caught.value)
    with pytest.raises(TRITON_ERROR) as refused:
        site.triton(token)
    site.typed("classify", str(site.image), "--route", "lora", "--task", "shapes", token=token)
    site.tokens("list", "--json")

    printed = capsys.readouterr()
    traces = [
        "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        for error in errors
    ]
    places = {
        "logs": caplog.text + "".join(map(repr, (vars(record) for record in caplog.records))),
        "standard output and error": printed.out + printed.err,
        "errors": " ".join(map(str, [*errors, refused.value])),
        "tracebacks with variables": "".join(traces),
        "metrics": generate_latest(site.running.server.service.metrics.registry).decode(),
    }
    for path in site.folder.rglob("*"):
        if path.is_file() and path.suffix != ".token":
            places[str(path)] = path.read_bytes().decode("latin1")
    assert "watched" in places["metrics"]
    assert "Secret(...)" in places["tracebacks with variables"]
    assert [place for place, text in places.items() for secret in site.secrets if secret in text] == []


def test_no_flag_of_any_command_takes_a_secret_itself() -> None:
    """Whatever is typed stands in the list of processes."""
    words = ("token", "secret", "password")
    taken = [
        f"{command.name} {option.opts[-1]}"
        for command in commands(corolla)
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag and option.name
        if option.name.split("_")[-1] in words and not isinstance(option.type, click.Path)
    ]
    assert taken == []


def commands(group: click.Command) -> Iterator[click.Command]:
    yield group
    if isinstance(group, CommandGroup):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command)
