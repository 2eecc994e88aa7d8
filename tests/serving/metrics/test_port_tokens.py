"""The metrics port shows metrics and pages to those with a token, and probes to anyone."""

import base64
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from serving.metrics.port import Answer, MetricsPort
from serving.metrics.port_tokens import PortTokens
from tests.serving.world import WAIT_S, new_metrics

TOKEN = "a" * 32


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MetricsPort, Path]]:
    file = tmp_path_factory.mktemp("port") / "tokens"
    port = MetricsPort(
        new_metrics().registry,
        port=0,
        pages={"/": lambda: Answer(body=b"accuracy")},
        tokens=PortTokens(file),
    )
    yield port, file
    port.close()


@pytest.fixture
def file(opened: tuple[MetricsPort, Path]) -> Path:
    opened[1].write_text(f"{TOKEN}\n")
    return opened[1]


@pytest.fixture
def port(opened: tuple[MetricsPort, Path], file: Path) -> MetricsPort:
    return opened[0]


def ask(port: MetricsPort, path: str, authorization: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port.port, timeout=WAIT_S)
    connection.request("GET", path, headers={} if authorization is None else {"Authorization": authorization})
    answer = connection.getresponse()
    said = answer.status, answer.read()
    connection.close()
    return said


@pytest.mark.parametrize("path", ["/metrics", "/", "/unknown"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", f"Bearer {TOKEN}a", f"Bearer {TOKEN[1:]}", TOKEN, "Basic !", "Bearer é"],
)
def test_nothing_is_shown_without_a_token(port: MetricsPort, path: str, authorization: str | None) -> None:
    header = None if authorization is None else authorization.encode().decode("latin-1")
    status, text = ask(port, path, header)
    assert status == 401
    assert b"--metrics-token-file" in text
    assert b"accuracy" not in text
    assert TOKEN.encode() not in text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Basic"])
def test_a_token_shows_all(port: MetricsPort, scheme: str) -> None:
    shown = TOKEN if scheme != "Basic" else base64.b64encode(f"prometheus:{TOKEN}".encode()).decode()
    assert b"corolla_ready" in ask(port, "/metrics", f"{scheme} {shown}")[1]
    assert ask(port, "/", f"{scheme} {shown}") == (200, b"accuracy")


def test_probes_need_no_token(port: MetricsPort) -> None:
    assert ask(port, "/healthz")[0] == ask(port, "/readyz/")[0] == 200


def test_tokens_are_renewed_in_their_file(port: MetricsPort, file: Path) -> None:
    new = "b" * 32
    file.write_text(f"{TOKEN}\n{new}\n")
    assert {ask(port, "/metrics", f"Bearer {token}")[0] for token in (TOKEN, new)} == {200}
    file.write_text(f"\n{new}\n\n")
    assert ask(port, "/metrics", f"Bearer {TOKEN}")[0] == 401
    assert ask(port, "/metrics", f"Bearer {new}")[0] == 200
    file.unlink()
    assert ask(port, "/metrics", f"Bearer {new}")[0] == 401


@pytest.mark.parametrize(
    ("text", "says"), [("", "has no token"), ("\n \n", "has no token"), ("short", "fewer than 16")]
)
def test_a_file_that_cannot_protect_is_refused(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidInput, match=says) as caught:
        PortTokens(file).read()
    assert caught.value.field == "metrics_token_file"
    file.unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        PortTokens(file).read()
