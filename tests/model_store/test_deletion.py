"""Deleting a version: what holds it, what becomes of `latest`, and what a killed delete leaves."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_store import deletion
from model_store.collections.aliases import Aliases
from model_store.format.records import NamedRoute
from model_store.place.objects import Objects
from model_store.store import Store
from petl_vit.errors import Conflict, NotFound
from tests.model_store.world import World


@pytest.fixture
def three(world: World) -> World:
    for value in (1.0, 2.0, 3.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    return world


def test_latest_moves_to_the_newest_that_remains_or_goes_with_the_last(three: World) -> None:
    store = three.store
    assert deletion.delete(store, "digits", "lora", 3).latest == 2
    assert store.adapters.aliases("digits", "lora") == {"latest": 2}
    assert deletion.delete(store, "digits", "lora", 1).latest == 2
    assert deletion.delete(store, "digits", "lora", 2).latest is None
    assert store.adapters.list() == []
    assert store.adapters.aliases("digits", "lora") == {}
    with pytest.raises(NotFound, match="no adapter 'lora'"):
        store.adapters.manifest("digits", "lora", 2)


def test_a_number_is_never_used_for_other_content(three: World) -> None:
    store = three.store
    for version in (3, 2, 1):
        deletion.delete(store, "digits", "lora", version)
    assert store.adapters.publish(three.draft(), three.adapter(9.0)).version == 4
    deletion.delete(store, "digits", "lora", 4)
    assert store.adapters.publish(three.draft(), three.adapter(9.0)).version == 5
    assert store.adapters.aliases("digits", "lora") == {"latest": 5}


class Stale(Objects):
    """A place that lists what it held when it was opened, whatever has happened since."""

    listed: list[str]

    @classmethod
    def of(cls, world: World) -> "Stale":
        place = cls.open(str(world.folder))
        place.listed = Objects.keys(place, "adapters")
        return place

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.listed if key.startswith(f"{prefix}/")]


def test_a_publisher_that_listed_the_numbers_before_the_delete_takes_another(three: World) -> None:
    store, stale = three.store, Store(Stale.of(three))
    assert store.adapters.publish(three.draft(), three.adapter(7.0)).version == 4
    deletion.delete(store, "digits", "lora", 4)
    assert stale.adapters.publish(three.draft(), three.adapter(8.0)).version == 5
    assert store.adapters.versions("digits", "lora") == [1, 2, 3, 5]
    assert not (three.folder / "adapters/digits/lora/4/adapter.safetensors").exists()


def test_a_publisher_that_listed_a_version_before_the_delete_goes_on_without_it(three: World) -> None:
    store, stale = three.store, Store(Stale.of(three))
    deletion.delete(store, "digits", "lora", 3)
    assert stale.adapters.publish(three.draft(), three.adapter(2.0)).version == 2
    assert stale.adapters.publish_once(three.draft(), three.adapter(3.0)).manifest.version == 4
    assert store.adapters.aliases("digits", "lora") == {"latest": 4}


def test_aliases_and_routes_that_mean_it_are_listed(three: World) -> None:
    store = three.store
    store.adapters.set_alias("digits", "lora", "prod", 2)
    routes = {"one": "lora:2", "two": "0.5*lora@prod, ssf", "three": "lora", "four": "lora:1", "b": "base"}
    store.adapters.publish(three.draft("ssf"), three.adapter(1.0))
    for name, text in routes.items():
        store.routes.put(NamedRoute(task="digits", name=name, route=text))
    store.routes.put(NamedRoute(task="letters", name="far", route="digits/lora:2"))
    store.routes.put(NamedRoute(task="letters", name="own", route="lora:2"))
    with pytest.raises(Conflict) as refused:
        deletion.delete(store, "digits", "lora", 2)
    assert refused.value.problem == (
        "digits/lora:2 is still named by alias 'prod', route 'one' of task 'digits', "
        "route 'two' of task 'digits', route 'far' of task 'letters'"
    )
    with pytest.raises(Conflict, match="route 'three'"):  # `lora` alone is latest, which is version 3
        deletion.delete(store, "digits", "lora", 3)
    assert store.adapters.versions("digits", "lora") == [1, 2, 3]


def test_once_nothing_names_it_it_goes(three: World) -> None:
    store = three.store
    store.adapters.set_alias("digits", "lora", "prod", 2)
    store.routes.put(NamedRoute(task="digits", name="one", route="lora:2"))
    store.adapters.set_alias("digits", "lora", "prod", 3)
    store.routes.delete("digits", "one")
    assert deletion.delete(store, "digits", "lora", 2).latest == 3


def test_what_is_not_there_is_not_deleted(three: World) -> None:
    for name, version in (("lora", 4), ("ssf", 1)):
        with pytest.raises(NotFound):
            deletion.delete(three.store, "digits", name, version)


@pytest.mark.parametrize("survives", range(5))
@pytest.mark.parametrize("version", [1, 3])
def test_a_killed_delete_leaves_the_version_whole_or_gone_and_the_next_ends_it(
    three: World, monkeypatch: pytest.MonkeyPatch, survives: int, version: int
) -> None:
    store, left = three.store, [survives]

    def until_killed(act):
        def write(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return act(*arguments)

        return write

    with monkeypatch.context() as patched:
        for name in ("create", "delete", "_replace"):
            patched.setattr(Objects, name, until_killed(getattr(Objects, name)))
        with contextlib.suppress(KeyboardInterrupt):
            deletion.delete(store, "digits", "lora", version)
    for there in store.adapters.versions("digits", "lora"):
        assert store.adapters.load(store.adapters.manifest("digits", "lora", there))
    assert store.adapters.aliases("digits", "lora")["latest"] in store.adapters.versions("digits", "lora")
    deletion.delete(store, "digits", "lora", version)
    assert version not in store.adapters.versions("digits", "lora")
    folder = three.folder / "adapters" / "digits" / "lora" / str(version)
    assert [path.name for path in folder.iterdir()] == ["deleted.json"]


def test_latest_leaves_a_version_that_was_deleted_while_it_moved_there(
    three: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = three.store, Store.open(str(three.folder))
    retreat = Aliases.retreat_latest

    def overtaken(aliases: Aliases, task: str, name: str, version: int, target: int) -> None:
        monkeypatch.setattr(Aliases, "retreat_latest", retreat)
        deletion.delete(other, "digits", "lora", 2)
        retreat(aliases, task, name, version, target)

    monkeypatch.setattr(Aliases, "retreat_latest", overtaken)
    assert deletion.delete(store, "digits", "lora", 3).latest == 1
    assert store.adapters.aliases("digits", "lora") == {"latest": 1}


def test_publishers_and_deleters_at_once_leave_latest_on_a_version(world: World) -> None:
    store = world.store

    def publish(value: int) -> None:
        made = store.adapters.publish(world.draft(), world.adapter(float(value)))
        if value % 2:
            deletion.delete(store, "digits", "lora", made.version)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(12)))
    versions = store.adapters.versions("digits", "lora")
    assert len(versions) == 6
    assert store.adapters.aliases("digits", "lora")["latest"] in versions
