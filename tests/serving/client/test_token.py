"""A client's bearer token: where it comes from, whom it is shown to, and who never sees it."""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from petl_vit.errors import CorollaError, InvalidInput, NotFound
from protos.corolla.v1 import classifier_pb2_grpc
from serving.client.admin import AdminClient
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.credentials import credentials
from serving.client.messages import RequestFailed, request_of
from serving.client.token import Bearer, Secret
from tests.serving.certificates import Certificates
from tests.serving.client.recording import Recording, recording
from tests.waiting import WAIT_S

SECRET = "w0rthKeepingSecretAbcdefghijklmnopqrstuvwx-_"
TOKEN = f"cor_abcdefgh_{SECRET}"
OTHER = f"cor_ijklmnop_{SECRET[::-1]}"


@pytest.fixture(scope="module")
def plain() -> Iterator[Recording]:
    with recording() as server:
        yield server


@pytest.fixture
def server(plain: Recording) -> Recording:
    plain.calls.clear()
    plain.code, plain.details = grpc.StatusCode.UNIMPLEMENTED, "recorded"
    return plain


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def bearer(text: str) -> str:
    return f"Bearer {text}"


def refused(token: Any) -> CorollaError:
    with pytest.raises((InvalidInput, NotFound)) as caught:
        Client("127.0.0.1:1", token=token)
    return caught.value


# Which calls show it


def test_every_call_of_every_client_shows_the_token(server: Recording) -> None:
    with Client(server.address, token=TOKEN, timeout_s=WAIT_S) as client:
        calls = [
            lambda: client.classify([b""], route="lora"),
            lambda: client.embed([b""]),
            lambda: client.feedback([("id", "star")]),
            lambda: list(client.stream([("1", request_of([b""], route="lora"))])),
            lambda: AdminClient(client).list_adapters(),
        ]
        for call in calls:
            with pytest.raises(RequestFailed):
                call()
        client.serving()

    assert server.shown == [bearer(TOKEN)] * 6


async def test_every_call_of_the_client_on_asyncio_shows_the_token(server: Recording) -> None:
    async with AsyncClient(server.address, token=TOKEN, timeout_s=WAIT_S) as client:
        with pytest.raises(RequestFailed):
            await client.classify([b""], route="lora")
        with pytest.raises(RequestFailed):
            async for _ in client.stream([("1", request_of([b""], route="lora"))]):
                pass
        await client.serving()

    assert server.shown == [bearer(TOKEN)] * 3


def test_without_a_token_nothing_is_shown(server: Recording) -> None:
    with Client(server.address, timeout_s=WAIT_S) as client:
        client.serving()

    assert server.shown == [None]


def test_a_call_by_a_stub_shows_what_the_clients_own_calls_show(server: Recording) -> None:
    with Client(server.address, token=TOKEN, timeout_s=WAIT_S) as client:
        stub = classifier_pb2_grpc.ClassifierStub(client.channel)
        with pytest.raises(RequestFailed):
            client.call(stub.Classify, request_of([b""], route="lora"))

    assert server.shown == [bearer(TOKEN)]


# From a file


def test_a_file_that_is_written_again_is_read_again(server: Recording, tmp_path: Path) -> None:
    path = written(tmp_path / "token", f"{TOKEN}\n")
    with Client(server.address, token=path, timeout_s=WAIT_S) as client:
        client.serving()
        written(path, "")  # as a program does that empties it first
        client.serving()
        path.unlink()
        client.serving()
        written(path, OTHER)
        client.serving()

    assert server.shown == [bearer(TOKEN)] * 3 + [bearer(OTHER)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        (f"{TOKEN}\n{OTHER}\n", "it has 2 lines"),
        (f"token: {TOKEN}", "it is not a bearer token"),
        (f"Bearer {TOKEN}", "it begins with the word Bearer"),
        (f"{TOKEN}\u00e9", "it is not a bearer token"),
    ],
)
def test_a_file_with_something_else_is_refused_and_not_shown(tmp_path: Path, text: str, said: str) -> None:
    error = refused(written(tmp_path / "token", text))

    assert error.field == "token_file"
    assert f"{tmp_path / 'token'} holds no token: {said}" in str(error)
    assert SECRET not in shown(error)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    assert str(refused(tmp_path / "none")).startswith(f"token_file: {tmp_path / 'none'} does not exist")
    assert f"{tmp_path} cannot be read (is a directory)" in str(refused(tmp_path))


def test_a_token_in_the_place_of_its_file_is_not_repeated(tmp_path: Path) -> None:
    error = refused(Path(TOKEN))

    assert "it is a token, where the path of a file" in str(error)
    assert SECRET not in str(error)


# As text


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "it is empty"),
        (f"Bearer {TOKEN}", "it begins with the word Bearer"),
        (f"{TOKEN} {TOKEN}", "it is not a bearer token"),
        (f"{TOKEN}\r\nx-admin: 1", "it has 2 lines"),
        (f"{TOKEN}\0", "it is not a bearer token"),
        ("x" * 9000, "it is not a bearer token"),
        ("/run/secrets/token", "it is a path"),
        (7, "it is of type int"),
        (TOKEN.encode(), "it is of type bytes"),
    ],
)
def test_text_that_is_no_token_is_refused_and_not_shown(token: Any, said: str) -> None:
    error = refused(token)

    assert error.field == "token"
    assert said in str(error)
    assert SECRET not in str(error)


def test_the_line_end_behind_a_token_is_not_part_of_it() -> None:
    assert Bearer(f"{TOKEN}\n").metadata() == (("authorization", bearer(TOKEN)),)


def test_tokens_of_other_issuers_are_shown_as_they_are() -> None:
    assert Bearer("eyJh.eyJz.c2ln==").metadata()[0][1] == "Bearer eyJh.eyJz.c2ln=="


# Over what


@pytest.mark.parametrize("address", ["10.0.0.5:50051", "corolla:50051", "dns:///corolla.internal:50051"])
def test_it_does_not_leave_the_machine_in_plain_text_unasked(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInput, match="would be sent the token in plain text; speak TLS") as caught:
            kind(address, token=TOKEN)
        assert caught.value.field == "token"
    Client(address, token=TOKEN, insecure=True).close()
    Client(address, token=TOKEN, server_name="corolla.internal").close()  # which is TLS
    Client(address).close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/corolla.sock"])
def test_this_machine_is_told_in_plain_text(address: str) -> None:
    Client(address, token=TOKEN).close()


def test_it_is_shown_over_tls_and_over_a_socket(certificates: Certificates, tmp_path: Path) -> None:
    authority = credentials(ca=certificates.folder / "ca.pem")
    with (
        recording(certificates) as over_tls,
        Client(over_tls.address, credentials=authority, token=TOKEN, timeout_s=WAIT_S) as client,
    ):
        client.serving()
    with (
        recording(place=f"unix:{tmp_path / 's'}") as over_socket,
        Client(over_socket.address, token=TOKEN, timeout_s=WAIT_S) as client,
    ):
        client.serving()

    assert over_tls.shown == over_socket.shown == [bearer(TOKEN)]


# What never shows it


def shown(error: BaseException) -> str:
    """All that a traceback shows with the variables of our frames and gRPC's, and the errors behind it."""
    parts = []
    traced = traceback.TracebackException.from_exception(error, capture_locals=True)
    while traced is not None:
        ours = [frame for frame in traced.stack if "/tests/" not in frame.filename]
        parts += ["".join(traceback.StackSummary.from_list(ours).format()), str(traced)]
        traced = traced.__cause__ or traced.__context__  # type: ignore[assignment]
    return "".join([*parts, repr(error), str(vars(error))])


def test_a_failed_call_shows_the_token_nowhere(server: Recording, tmp_path: Path) -> None:
    path = written(tmp_path / "token", TOKEN)
    with Client(server.address, token=path, timeout_s=WAIT_S) as client:
        with pytest.raises(RequestFailed) as caught:
            client.classify([b""], route="lora")
        said = shown(caught.value) + repr(client) + repr(vars(client))

    assert "Secret(...)" in said  # the variables are there
    assert SECRET not in said


async def test_a_failed_call_on_asyncio_shows_the_token_nowhere(server: Recording, tmp_path: Path) -> None:
    path = written(tmp_path / "token", TOKEN)
    async with AsyncClient(server.address, token=path, timeout_s=WAIT_S) as client:
        with pytest.raises(RequestFailed) as caught:
            await client.classify([b""], route="lora")
        said = shown(caught.value) + repr(vars(client))

    assert SECRET not in said


def test_a_caller_whom_the_server_does_not_know_is_told_how_to_show_a_token(server: Recording) -> None:
    server.code, server.details = grpc.StatusCode.UNAUTHENTICATED, "the call shows no token; send `x`"
    with Client(server.address, timeout_s=WAIT_S) as client, pytest.raises(RequestFailed) as without:
        client.classify([b""], route="lora")
    server.details = "the token was revoked; ask for another one"
    with (
        Client(server.address, token=TOKEN, timeout_s=WAIT_S) as client,
        pytest.raises(RequestFailed) as revoked,
    ):
        client.classify([b""], route="lora")

    assert (
        "does not let the call in: the call shows no token; give the client a token: token=, --token-file"
        in str(without.value)
    )
    assert "the token was revoked; this client shows token abcdefgh; get another one by `corolla" in str(
        revoked.value
    )
    assert (without.value.code, revoked.value.code) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert SECRET not in str(revoked.value)


def test_a_token_is_named_by_its_public_part() -> None:
    assert repr(Bearer(TOKEN)) == "Bearer(abcdefgh)"
    assert repr(Bearer("opaque")) == "Bearer(given as text)"
    assert SECRET not in repr([Secret(TOKEN)])
