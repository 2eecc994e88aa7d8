"""The token that `corolla watch` and `corolla monitor` show to a metrics port, or to a Prometheus."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.metrics.port import MetricsPort
from serving.metrics.port_tokens import PortTokens
from serving.monitor.pages import StatusPages
from tests.corolla.shell import Shell
from tests.serving.monitor.statuses import full
from tests.serving.world import new_metrics

TOKEN = "f00d" * 8
WATCH = ("watch", "--once")
MONITOR = ("monitor", "--once", "--server-metrics")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def address(file: Path) -> Iterator[str]:
    """A port of metrics and a status that asks for the token."""
    pages = StatusPages(full, fresh_s=0.0).pages
    port = MetricsPort(new_metrics().registry, port=0, pages=pages, tokens=PortTokens(file))
    yield f"127.0.0.1:{port.port}"
    port.close()


@pytest.mark.parametrize("words", [WATCH, MONITOR])
def test_a_port_that_asks_for_a_token_is_read_with_it_and_not_without(
    empty: Shell, address: str, file: Path, words: tuple[str, ...]
) -> None:
    refused, _, said = empty(*words, address)
    answered, out, err = empty(*words, address, "--token-file", str(file))

    assert refused == 2
    assert "answers 401" in said
    assert "--token-file" in said
    assert answered == 0
    assert "answers 401" not in err
    assert TOKEN not in said + out + err


@pytest.mark.parametrize(
    "words",
    [
        ("watch", "192.0.2.1:9095"),
        (*MONITOR, "192.0.2.1:9095"),
        ("monitor", "--once", "--job", "corolla", "--prometheus", "http://192.0.2.1:9090"),
    ],
)
def test_a_token_does_not_leave_the_machine_in_plain_text_unasked(
    empty: Shell, file: Path, words: tuple[str, ...]
) -> None:
    code, _, said = empty(*words, "--token-file", str(file))

    assert code == 2
    assert said.startswith("corolla: --token-file: http://192.0.2.1:90")
    assert "would be sent the token in plain text; ask by https://; on a network you trust, add --ins" in said


def test_a_token_file_that_is_not_there_is_named(empty: Shell, address: str, tmp_path: Path) -> None:
    code, _, said = empty(*WATCH, address, "--token-file", str(tmp_path / "none"))

    assert (code, said) == (2, f"corolla: --token-file: {tmp_path / 'none'} does not exist; check the path\n")
