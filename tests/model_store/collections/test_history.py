"""The history of aliases and named routes: what is recorded, by whom, under races and without bounds."""

import getpass
import logging
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_store import deletion
from model_store.collections import history
from model_store.format import keys
from model_store.format.records import Audit, NamedRoute
from model_store.place.objects import Objects
from model_store.store import Store
from petl_vit.errors import CorollaError, Unreachable
from tests.model_store.world import World

LIVE = keys.route("digits", "live")
PROD, LATEST = keys.alias("digits", "lora", "prod"), keys.alias("digits", "lora", "latest")


def route(text: str, temperature: float = 1.0) -> NamedRoute:
    return NamedRoute.of(task="digits", name="live", route=text, temperature=temperature)


def steps(records: list[Audit]) -> list[tuple[str, str]]:
    return [(record.before, record.after) for record in records]


@pytest.fixture
def three(world: World) -> World:
    for value in (1.0, 2.0, 3.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    return world


def test_a_route_put_replaced_and_deleted_leaves_who_when_from_what_and_to_what(world: World) -> None:
    routes = world.store.routes
    assert routes.put(route("lora:1", 1.7)) is None
    assert routes.put(route("lora:2"), by="ann@laptop") == route("lora:1", 1.7)
    routes.put(route("lora:2"))  # the same again is no change
    routes.delete("digits", "live", by="ipv4:10.0.0.7:4321")
    first, second, third = world.store.history.of(LIVE)

    assert steps([first, second, third]) == [("", "lora:1"), ("lora:1", "lora:2"), ("lora:2", "")]
    assert first.by == f"{getpass.getuser()}@{socket.gethostname()}"
    assert (second.by, third.by) == ("ann@laptop", "ipv4:10.0.0.7:4321")
    assert (second.before_temperature, second.after_temperature) == (1.7, 1.0)
    assert first.at < second.at < third.at
    assert {record.name for record in (first, second, third)} == {"digits/live"}


def test_a_changed_temperature_is_a_change(world: World) -> None:
    world.store.routes.put(route("lora:1", 1.7))
    world.store.routes.put(route("lora:1", 2.5))
    assert len(world.store.history.of(LIVE)) == 2


def test_every_move_of_an_alias_is_recorded_those_of_latest_too(three: World) -> None:
    store = three.store
    store.adapters.set_alias("digits", "lora", "prod", 1)
    store.adapters.set_alias("digits", "lora", "prod", 1)  # it stands there already
    store.adapters.set_alias("digits", "lora", "prod", 2, by="ann@laptop")
    store.adapters.publish(three.draft(), three.adapter(3.0))  # it is the newest already
    assert steps(store.history.of(PROD)) == [("", "1"), ("1", "2")]
    assert steps(store.history.of(LATEST)) == [("", "1"), ("1", "2"), ("2", "3")]

    store.adapters.set_alias("digits", "lora", "prod", 1)
    for version in (3, 2):
        deletion.delete(store, "digits", "lora", version)
    assert steps(store.history.of(LATEST))[3:] == [("3", "2"), ("2", "1")]


def test_latest_that_goes_with_the_last_version_is_recorded(world: World) -> None:
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    deletion.delete(world.store, "digits", "lora", 1)
    assert steps(world.store.history.of(LATEST)) == [("", "1"), ("1", "")]


def test_a_refused_change_leaves_no_record(three: World) -> None:
    store = three.store
    with pytest.raises(CorollaError):
        store.adapters.set_alias("digits", "lora", "prod", 2, expected=1)
    with pytest.raises(CorollaError):
        store.routes.put(route("lora:1"), expected=route("lora:2"))
    with pytest.raises(CorollaError):
        store.routes.delete("digits", "live")
    assert store.history.of(PROD) == store.history.of(LIVE) == []


@pytest.mark.parametrize("url", ["folder", "memory"])
def test_putters_at_once_leave_a_chain_in_which_each_replaces_the_one_before(world: World, url: str) -> None:
    store = world.store if url == "folder" else Store(Objects.open("memory:///"))
    texts = [f"lora:{version}" for version in range(1, 13)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: store.routes.put(route(text)), texts))
    records = store.history.of(LIVE)

    followers = {record.before: record.after for record in records}
    chain = [followers[""]]
    while chain[-1] in followers:
        chain.append(followers[chain[-1]])
    assert sorted(chain) == sorted(texts)
    assert chain[-1] == store.routes.get("digits", "live").route


def test_of_each_name_the_newest_records_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    for version in range(1, 7):
        world.store.routes.put(route(f"lora:{version}"))
    assert [record.after for record in world.store.history.of(LIVE)] == ["lora:4", "lora:5", "lora:6"]
    assert [record.after for record in world.store.history.of(LIVE, limit=1)] == ["lora:6"]


def test_a_change_whose_record_cannot_be_written_is_made_and_said(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create = Objects.create

    def refused(place: Objects, key: str, data: bytes) -> bool:
        if key.startswith("history/"):
            raise Unreachable("no permission", field=key)
        return create(place, key, data)

    monkeypatch.setattr(Objects, "create", refused)
    caplog.set_level(logging.WARNING)
    world.store.routes.put(route("lora:1"))
    assert world.store.routes.get("digits", "live").route == "lora:1"
    assert "digits/live has changed, and its history does not say so" in caplog.text


def test_a_damaged_record_hides_no_other(world: World) -> None:
    world.store.routes.put(route("lora:1"))
    (file,) = (world.folder / "history" / LIVE).iterdir()
    file.write_text("{")
    world.store.routes.put(route("lora:2"))
    (world.folder / "history" / LIVE / "notes.txt").write_text("somebody's")
    assert steps(world.store.history.of(LIVE)) == [("lora:1", "lora:2")]


def test_a_damaged_route_can_be_replaced_and_deleted(world: World) -> None:
    world.store.routes.put(route("lora:1"))
    file = world.folder / LIVE
    file.write_text("{")
    world.store.routes.put(route("lora:2"))
    file.write_text("{")
    world.store.routes.delete("digits", "live")
    assert steps(world.store.history.of(LIVE)) == [("", "lora:1"), ("", "lora:2"), ("", "")]
    assert world.store.history.of(LIVE)[-1].note == "it was damaged"


def test_the_newest_of_all_names_are_listed_by_kind_and_task(three: World) -> None:
    store = three.store
    store.routes.put(route("lora:1"))
    store.adapters.set_alias("digits", "lora", "prod", 1)
    assert [record.name for record in store.history.newest(keys.ROUTES)] == ["digits/live"]
    assert [record.name for record in store.history.newest(keys.ALIASES, "digits", 1)] == ["digits/lora@prod"]
    assert store.history.newest(keys.ALIASES, "letters") == []


def test_a_user_without_a_name_is_told_by_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    world.store.routes.put(route("lora:1"))
    assert world.store.history.of(LIVE)[0].by.startswith("uid-")
