"""The history of a route: its own changes, and the moves of the aliases that it named at the time."""

from pathlib import Path

import pytest

from model_store.resolution import named_route
from model_store.resolution.audit import history_of
from model_store.store import Store
from petl_vit.errors import NotFound
from tests.model_store.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """`live` has been `lora@prod`, then `lora:2`, then `ssf` that follows; all aliases moved all the time."""
    world = World(Store.open(str(tmp_path / "store")), tmp_path / "store")
    adapters = world.store.adapters
    for value in (1.0, 2.0):
        adapters.publish(world.draft(), world.adapter(value))
    adapters.publish(world.draft("ssf"), world.adapter(3.0))
    adapters.set_alias("digits", "lora", "prod", 1)
    put(world, "lora@prod")
    adapters.set_alias("digits", "lora", "prod", 2)
    put(world, "lora:2")
    adapters.set_alias("digits", "lora", "prod", 1)
    put(world, "ssf", follow=True)
    adapters.publish(world.draft("ssf"), world.adapter(4.0))
    adapters.publish(world.draft("lora"), world.adapter(5.0))
    return world


def put(world: World, text: str, *, follow: bool = False) -> None:
    naming = named_route.check(world.store, task="digits", name="live", text=text, follow=follow)
    world.store.routes.put(naming.route)


def steps(world: World, name: str | None, task: str | None = "digits", limit: int = 100) -> list[str]:
    records = history_of(world.store, name, task=task, limit=limit)
    return [f"{record.name}: {record.before} -> {record.after}" for record in records]


def test_a_routes_history_has_the_moves_of_its_aliases_while_it_named_them(world: World) -> None:
    assert steps(world, "live") == [
        "digits/live:  -> lora@prod",
        "digits/lora@prod: 1 -> 2",
        "digits/live: lora@prod -> lora:2",
        "digits/live: lora:2 -> ssf",
        "digits/ssf@latest: 1 -> 2",
    ]
    assert steps(world, "live", limit=2) == steps(world, "digits/live", None)[-2:]


def test_an_aliases_history_is_its_own(world: World) -> None:
    assert steps(world, "lora@prod") == [
        "digits/lora@prod:  -> 1",
        "digits/lora@prod: 1 -> 2",
        "digits/lora@prod: 2 -> 1",
    ]
    assert steps(world, "digits/lora@nothing", None) == []


def test_without_a_name_all_changes_are_there_in_their_order(world: World) -> None:
    everything = steps(world, None, None)
    assert len(everything) == 11
    assert everything[0] == "digits/lora@latest:  -> 1"
    assert everything[-1] == "digits/lora@latest: 2 -> 3"
    assert steps(world, None, "digits", limit=3) == everything[-3:]
    assert steps(world, None, "letters") == []


def test_a_deleted_route_keeps_its_history_and_an_unknown_one_is_refused(world: World) -> None:
    world.store.routes.delete("digits", "live")
    world.store.adapters.publish(world.draft("ssf"), world.adapter(6.0))
    assert steps(world, "live")[-2:] == ["digits/ssf@latest: 1 -> 2", "digits/live: ssf -> "]
    with pytest.raises(NotFound, match="no route 'lvie'"):
        steps(world, "lvie")


def test_a_route_of_an_older_store_has_the_moves_of_its_aliases(world: World) -> None:
    file = world.folder / "routes" / "digits" / "old"
    file.write_text('{"format_version": 1, "task": "digits", "name": "old", "route": "0.5*lora@prod"}')
    assert steps(world, "old") == steps(world, "lora@prod")
