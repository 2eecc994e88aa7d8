"""The commands that act on a running server, as people type them."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from corolla import command
from corolla.commands.adapters import adapters
from corolla.commands.classify import classify
from corolla.commands.routes import routes
from petl_vit.errors import InvalidInput
from serving.client.messages import RequestFailed
from tests.serving.world import Running, World, encoded


@pytest.fixture
def ours(own_world: World) -> Iterator[Running]:
    """A server over a store that the test may change."""
    with Running(own_world.settings()) as running:
        yield running


def said(running: Running, *words: str) -> str:
    """What `corolla WORDS --server ...` prints."""
    group = {"adapters": adapters, "routes": routes}[words[0]]
    arguments = [*words[1:], "--server", running.address]
    result = CliRunner().invoke(group, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def document(running: Running, *words: str) -> Any:
    return json.loads(said(running, *words, "--json"))


# Adapters


def test_an_adapter_is_loaded_listed_pinned_and_unloaded(ours: Running) -> None:
    assert "in memory: 0 adapters, 0.0 KiB of 2,048.0 MiB" in said(ours, "adapters", "resident")
    assert "shapes/lora:1 is in memory" in said(ours, "adapters", "load", "lora@prod", "--task", "shapes")
    assert "shapes/ssf:1 is pinned" in said(ours, "adapters", "pin", "shapes/ssf")
    table = said(ours, "adapters", "resident").splitlines()
    assert table[0].split()[:2] == ["adapter", "method"]
    assert "pinned" in table[1]
    assert table[2].split()[:3] == ["shapes/lora:1", "lora", "prod"]

    with pytest.raises(RequestFailed, match="unpin it first"):
        said(ours, "adapters", "unload", "shapes/ssf")
    assert "is not pinned" in said(ours, "adapters", "unpin", "shapes/ssf")
    unloaded = said(ours, "adapters", "unload", "shapes/ssf")
    assert re.fullmatch(r"shapes/ssf:1 is unloaded, [1-9][\d.]* KiB are free\n", unloaded)
    assert "shapes/ssf" not in said(ours, "adapters", "resident")
    again = said(ours, "adapters", "unload", "shapes/ssf")
    assert again == "shapes/ssf:1 is not in memory, there was nothing to do\n"


def test_everything_of_a_task_can_be_listed(ours: Running, own_world: World) -> None:
    own_world.adapter_file("shapes", "full", 1).with_name("manifest.json").write_text("{")
    table = said(ours, "adapters", "resident", "--all", "--task", "shapes")

    assert "shapes/lora:2" in table
    assert "not JSON" in table
    assert "colours" not in table


def test_json_is_one_document_with_every_field(ours: Running) -> None:
    loaded = document(ours, "adapters", "load", "shapes/lora")
    listing = document(ours, "adapters", "resident")

    assert (loaded["name"], loaded["aliases"], loaded["pinned"]) == ("shapes/lora:2", ["latest"], False)
    assert [state["digest"] for state in listing["adapters"]] == [loaded["digest"]]
    assert int(listing["registered"]["bytes"]) == int(loaded["registered_bytes"]) > 0
    freed = document(ours, "adapters", "unload", "shapes/lora")
    assert int(freed["freed_bytes"]) == int(loaded["registered_bytes"])
    assert document(ours, "adapters", "pin", "shapes/lora")["pinned"]
    assert not document(ours, "adapters", "unpin", "shapes/lora")["pinned"]
    assert document(ours, "adapters", "reload") == {"changes": []}


def test_a_reload_says_what_changed(own_world: World) -> None:
    with Running(own_world.settings(refresh_s=3600)) as running:
        assert said(running, "adapters", "reload") == "nothing has changed\n"
        own_world.put_route("best", "ssf")
        own_world.publish("shapes", "lora", seed=3)
        own_world.store.routes.delete("shapes", "best")
        lines = said(running, "adapters", "reload").splitlines()

    assert "shapes/best: gone, was lora, ssf, 0.5*bitfit" in lines
    assert "shapes/lora@latest: 3, was 2" in lines


def test_what_the_server_refuses_is_one_line_and_exit_code_2(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["adapters", "load", "shapes/lorra", "--server", running.address]) == 2
    assert "did you mean lora?" in capsys.readouterr().err
    assert command.run(["adapters", "load", "lora", "--server", "127.0.0.1:1", "--timeout", "5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("corolla: ")


# Aliases and routes, through a server


def test_an_alias_moves_through_a_server(ours: Running, own_world: World) -> None:
    words = ("adapters", "alias", "lora", "prod", "2", "--task", "shapes")
    assert said(ours, *words) == "shapes/lora@prod is version 2, was 1\n"
    assert own_world.store.adapters.aliases("shapes", "lora")["prod"] == 2
    with pytest.raises(RequestFailed, match="points at version 2, not at 1"):
        said(ours, "adapters", "alias", "shapes/lora", "prod", "1", "--expected", "1")
    with pytest.raises(RequestFailed, match="colours, reordered, shapes"):
        said(ours, "adapters", "alias", "lora", "prod", "1")
    assert document(ours, "adapters", "alias", "shapes/lora", "prod", "1") == {
        "task": "shapes",
        "adapter": "lora",
        "alias": "prod",
        "version": 1,
        "before": 2,
        "notes": [],
    }


def test_a_route_put_through_a_server_is_said_as_through_a_store(ours: Running, own_world: World) -> None:
    words = ("routes", "put", "ssf", "prob(2: lora, 0.4*bitfit + base)", "--task", "shapes")
    through_server = said(ours, *words)
    store = ["--store", str(own_world.folder)]
    through_store = CliRunner().invoke(routes, [*words[1:], *store], standalone_mode=False)

    assert through_server == through_store.stdout
    assert "67%  adapter lora of task shapes, version 2" in through_server
    assert "the adapter of that name is ssf@latest" in through_server
    assert own_world.store.routes.get("shapes", "ssf").route == "prob(2: lora:2, 0.4*bitfit:1 + base)"


def test_routes_are_listed_with_their_problems_and_deleted_through_a_server(own_world: World) -> None:
    own_world.put_route("gone", "lora, nothing", temperature=2.5)
    with Running(own_world.settings()) as running:
        table = said(running, "routes", "list")
        assert "no adapter 'nothing'" in table
        assert "2.5" in table
        listed = document(running, "routes", "list", "--task", "shapes")
        assert [(route["name"], bool(route["problem"])) for route in listed] == [
            ("best", False),
            ("gone", True),
        ]

        deleted = said(running, "routes", "delete", "gone", "--task", "shapes")
        assert deleted == "route shapes/gone is deleted\n"
        assert document(running, "routes", "delete", "best", "--task", "shapes") == {
            "task": "shapes",
            "name": "best",
        }
        assert "problem" not in said(running, "routes", "list")
        assert document(running, "routes", "list") == []
    assert own_world.store.routes.list() == []


def test_a_route_that_cannot_answer_is_refused_as_through_a_store(running: Running, world: World) -> None:
    for text in ("lora, nothing", "2*lora", "lora,", "lora, colours/lora"):
        words = ["put", "r", text, "--task", "shapes"]
        store = CliRunner().invoke(routes, [*words, "--store", str(world.folder)], standalone_mode=False)
        with pytest.raises(RequestFailed) as caught:
            said(running, "routes", *words)
        assert str(caught.value) == str(store.exception)


def test_what_would_be_ignored_is_refused(running: Running, world: World) -> None:
    both = ["list", "--store", str(world.folder), "--server", running.address]
    for words, problem in (
        (both, "give either --store or --server"),
        *(
            (["list", flag, "x.pem"], "add --server")
            for flag in ("--tls-ca", "--tls-certificate", "--tls-key")
        ),
        (["list", "--timeout", "3"], "add --server"),
    ):
        result = CliRunner().invoke(routes, words, standalone_mode=False)
        assert isinstance(result.exception, InvalidInput)
        assert problem in str(result.exception)


def test_a_store_named_by_the_environment_gives_way_to_a_server(running: Running) -> None:
    words = ["list", "--server", running.address]
    result = CliRunner().invoke(routes, words, env={"COROLLA_STORE": "/nowhere"}, standalone_mode=False)
    assert "best" in result.stdout


def test_without_grpc_the_server_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("corolla.commands.resident", "corolla.server_names", "corolla.connection")
    for name in (*ours, "serving.client.blocking", "grpc"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    for group, words in ((routes, ["list", "--server", "localhost:1"]), (adapters, ["load", "lora"])):
        result = CliRunner().invoke(group, words, standalone_mode=False)
        said = "needs grpc, which is not installed; run pip install 'corolla[client]'"
        assert said in str(result.exception)


def test_priority_travels_with_the_request(running: Running, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(encoded(1))
    words = [str(image), "--task", "shapes", "--route", "lora", "--server", running.address]
    for priority in ("low", "normal", "high"):
        assert CliRunner().invoke(classify, [*words, "--priority", priority]).exit_code == 0
    assert CliRunner().invoke(classify, [*words, "--priority", "highest"]).exit_code == 2
