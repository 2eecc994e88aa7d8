"""`corolla watch` as people type it, at a port that answers with a status."""

import _thread
import json
import socket
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.port import Answer, MetricsPort
from serving.monitor.pages import StatusPages
from serving.monitor.status import Status
from tests.corolla.shell import Shell
from tests.serving.monitor.statuses import NOW, full, status


class Served:
    """A port whose status is `now`; `look` may be replaced."""

    def __init__(self) -> None:
        self.look: Callable[[], Status] = full
        self.port = MetricsPort(
            CollectorRegistry(), port=0, pages=StatusPages(lambda: self.look(), fresh_s=0.0).pages
        )
        self.address = f"127.0.0.1:{self.port.port}"


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.port.close()


@pytest.fixture
def typed(empty: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.delenv("COLUMNS", raising=False)
    return empty


def test_once_shows_a_table_as_wide_as_it_needs_to_be(served: Served, typed: Shell) -> None:
    code, out, err = typed("watch", served.address, "--once")
    assert (code, err) == (0, "")
    lines = out.replace("\u00a0", " ").splitlines()
    assert "1 alarm on 1 route with a reference." in lines
    (line,) = [line for line in lines if line.startswith("birds/best") and "sketch" in line]
    assert line.endswith("alarm: shift")
    assert "71.0 %? (58.0 to 80.0)  ▇▇▇" in line


def test_json_is_the_status_in_one_line(served: Served, typed: Shell) -> None:
    code, out, _ = typed("watch", f"http://{served.address}/", "--once", "--json")
    assert code == 0
    assert out.count("\n") == 1
    assert Status.model_validate_json(out) == full()


def test_only_the_routes_that_are_named_are_shown(served: Served, typed: Shell) -> None:
    document = json.loads(typed("watch", served.address, "--once", "--json", "--route", "birds/lora")[1])
    assert [route["route"] for route in document["routes"]] == ["birds/lora"]


def test_a_route_that_is_not_there_is_named_with_the_nearest(served: Served, typed: Shell) -> None:
    said = typed.refused("watch", served.address, "--once", "--route", "birds/bets")
    assert said == "corolla: --route: 'birds/bets' is not a route of this server; did you mean birds/best?"


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["table", "json"])
def test_over_a_pipe_it_goes_on_look_after_look_until_it_is_interrupted(
    served: Served, typed: Shell, flags: tuple[str, ...]
) -> None:
    looks: list[int] = []

    def look() -> Status:
        looks.append(1)
        if len(looks) == 3:
            _thread.interrupt_main()
        return status().model_copy(update={"at": NOW + len(looks)})

    served.look = look
    code, out, err = typed("watch", served.address, "--every", "0.1", *flags)
    assert (code, err) == (130, "corolla: interrupted\n")
    assert out.count("08:00:01" if not flags else f'"at":{NOW + 1}') == 1
    assert out.count("08:00:02" if not flags else f'"at":{NOW + 2}') == 1


def test_a_server_that_goes_away_is_told_and_asked_again(served: Served, typed: Shell) -> None:
    looks: list[int] = []

    def look() -> Status:
        looks.append(1)
        if len(looks) == 4:
            _thread.interrupt_main()
        if len(looks) == 2:
            raise RuntimeError("a fault")
        return full()

    served.look = look
    code, out, _ = typed("watch", served.address, "--every", "0.1")
    assert code == 130
    assert out.count("these numbers are old: ") == 1
    assert "answers 500" in out
    assert out.count("1 alarm on 1 route") >= 3


def test_nothing_that_listens_is_told_with_what_to_name(typed: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    said = typed.refused("watch", address)
    assert said.startswith(f"corolla: http://{address}/status.json does not answer: connection refused")
    assert "9095" in said


def test_a_port_without_a_status_is_told(typed: Shell) -> None:
    port = MetricsPort(CollectorRegistry(), port=0)
    try:
        said = typed.refused("watch", f"127.0.0.1:{port.port}", "--once")
    finally:
        port.close()
    assert "answers 404" in said
    assert "metrics port" in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[]", "answers, but not with a status"),
        (b"<html>", "answers, but not with a status"),
        (b'{"source": "x", "at": "soon"}', "cannot be read: at:"),
    ],
)
def test_an_answer_that_is_not_a_status_is_told(typed: Shell, body: bytes, words: str) -> None:
    port = MetricsPort(CollectorRegistry(), port=0, pages={"/status.json": lambda: Answer(body=body)})
    try:
        assert words in typed.refused("watch", f"127.0.0.1:{port.port}", "--once")
    finally:
        port.close()


def test_a_word_that_is_not_an_address_is_refused(typed: Shell) -> None:
    assert typed.refused("watch", "ftp://x:1").startswith("corolla: address: 'ftp://x:1' is not a URL")


def test_a_terminal_keeps_the_last_look(
    served: Served, typed: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    looks: list[int] = []

    def look() -> Status:
        looks.append(1)
        if len(looks) == 3:
            _thread.interrupt_main()
        return full()

    served.look = look
    code, out, err = typed("watch", served.address, "--every", "0.1")
    assert (code, err) == (130, "corolla: interrupted\n")
    assert "alarm: shift" in out
