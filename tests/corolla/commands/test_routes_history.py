"""`corolla routes` on what moves: pinned and followed routes in lists, and `corolla routes history`."""

import getpass
import socket

import pytest

import corolla
from corolla.commands.adapters import set_alias
from corolla.commands.routes import routes
from petl_vit.errors import NotFound
from tests.corolla.runner import document, printed
from tests.model_store.world import World

ME = f"{getpass.getuser()}@{socket.gethostname()}"


def test_a_route_put_says_that_it_is_pinned_or_follows(published: World) -> None:
    store = published.folder
    pinned = document(routes, "put", "live", "lora", store=store)
    assert (pinned["route"], pinned["follows"], pinned["answers"]) == ("lora:1", [], "lora:1")
    assert pinned["notes"] == ["pinned: lora as lora:1; later versions do not move it (--follow would)"]
    said = printed(routes, "put", "edge", "lora", "--follow", store=store)
    assert "route digits/edge = lora" in said
    assert "follows lora: the next registered version answers" in said


def test_lists_show_what_follows_and_a_temperature_that_is_not_applied(published: World) -> None:
    store = published.folder
    printed(routes, "put", "live", "lora", store=store)
    printed(routes, "put", "edge", "lora", "--follow", store=store)
    published.store.adapters.publish(published.draft(temperature=2.5), published.adapter(5.0))

    edge, live = document(routes, "list", store=store)
    assert (live["answers"], live["answers_at_temperature"], live["note"]) == ("lora:1", 1.7, "")
    assert (edge["answers"], edge["answers_at_temperature"], edge["temperature"]) == ("lora:2", 2.5, 1.7)
    assert edge["follows"] == ["lora"]
    assert "temperature 1.7 is for digits/lora:1" in edge["note"]
    assert document(routes, "show", "edge", store=store)["note"] == edge["note"]
    table = printed(routes, "list", store=store)
    assert {"follows", "answers", "note"} <= set(table.splitlines()[0].split())


def test_the_history_says_who_when_from_what_and_to_what(published: World) -> None:
    store = published.folder
    printed(set_alias, "lora", "prod", "1", store=store)
    printed(routes, "put", "live", "lora@prod", store=store)
    printed(routes, "put", "live", "lora@prod, ssf", "--temperature", "1.3", store=store)
    printed(routes, "delete", "live", store=store)

    said = printed(routes, "history", "live", store=store).splitlines()
    assert said[0].split("  ")[0].strip() == "when (UTC)"
    assert len(said) == 4
    assert "lora@prod (digits/lora:1) at temperature 1.7" in said[1]
    assert "lora@prod, ssf:1 (digits/lora:1, digits/ssf:1) at temperature 1.3" in said[2]
    assert said[3].split()[-2:] == ["-", ME]
    first = document(routes, "history", "live", store=store)[0]
    assert (first["name"], first["before"], first["after"], first["by"]) == (
        "digits/live",
        "",
        "lora@prod",
        ME,
    )
    assert [r["after"] for r in document(routes, "history", "lora@prod", store=store)] == ["1"]
    assert len(document(routes, "history", "--limit", "2", store=store)) == 2


def test_an_empty_history_and_an_unknown_name(stored: World) -> None:
    assert printed(routes, "history", store=stored.folder) == "Nothing has been changed yet.\n"
    with pytest.raises(NotFound, match="no route 'live'"):
        printed(routes, "history", "live", store=stored.folder)


def test_a_program_puts_and_follows_and_reads_the_history_alike(published: World) -> None:
    with corolla.Store(published.folder) as store:
        assert store.put_route("live", "lora, ssf").route == "lora:1, ssf:1"
        edge = store.put_route("edge", "lora", follow=True)
        assert (edge.route, edge.follows) == ("lora", ("lora",))
        store.set_alias("lora", "prod", 1)
        assert [(r.name, r.after, r.by) for r in store.history(limit=3)] == [
            ("digits/live", "lora:1, ssf:1", ME),
            ("digits/edge", "lora", ME),
            ("digits/lora@prod", "1", ME),
        ]
        assert [r.after for r in store.history("live")] == ["lora:1, ssf:1"]
