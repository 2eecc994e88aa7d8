"""Deleting tasks: what holds them, and what goes with them."""

import pytest

from model_store.deletion import delete_task, task_deletion
from model_store.format.records import NamedRoute
from petl_vit.errors import Conflict
from tests.model_store.world import World


def _named(world: World, task: str, name: str, route: str) -> None:
    world.store.routes.put(NamedRoute.of(task=task, name=name, route=route))


def test_a_task_is_deleted_once_nothing_belongs_to_it(world: World) -> None:
    store = world.store
    store.adapters.publish(world.draft(), world.adapter(1.0))
    _named(world, "digits", "best", "lora:1")
    with pytest.raises(Conflict, match=r"digits/lora:1, route 'best' belong to it.*--with-adapters"):
        task_deletion(store, [world.task])
    assert store.tasks.list() == [world.task]
    store.routes.delete("digits", "best")
    store.adapters.remove("digits", "lora", 1)
    delete_task(store, task_deletion(store, [world.task]))
    assert store.tasks.list() == []
    assert store.tasks.put(world.spec(), world.head(0.0)).digest == world.task.digest


def test_adapters_aliases_and_routes_go_with_it_where_that_is_asked(world: World) -> None:
    store = world.store
    for value in (1.0, 2.0):
        store.adapters.publish(world.draft(), world.adapter(value))
    store.adapters.set_alias("digits", "lora", "prod", 1)
    _named(world, "digits", "best", "lora@prod, base")
    planned = task_deletion(store, [world.task], with_adapters=True)
    assert [str(manifest) for manifest in planned.adapters] == ["digits/lora:1", "digits/lora:2"]
    delete_task(store, planned)
    assert (store.tasks.list(), store.adapters.list(), store.routes.list()) == ([], [], [])
    assert store.adapters.aliases("digits", "lora") == {}
    assert not store.place.keys("aliases")


def test_a_route_of_another_task_holds_it(world: World) -> None:
    store = world.store
    letters = store.tasks.put(world.spec("letters"), world.head(0.0))
    _named(world, "letters", "both", "base, digits/base")
    for with_adapters in (False, True):
        with pytest.raises(Conflict, match=r"task 'digits' is still named by route 'both' of task 'letters'"):
            task_deletion(store, [world.task], with_adapters=with_adapters)
    assert store.tasks.list("letters") == [letters]


def test_a_version_is_deleted_by_itself_and_a_route_that_needs_its_adapters_holds_it(world: World) -> None:
    store = world.store
    second = store.tasks.refit(world.task, world.head(1.0), {})
    store.adapters.publish(world.draft(), world.adapter(1.0))
    store.adapters.publish(world.draft("new", second), world.adapter(1.0))
    _named(world, "digits", "best", "new:1")
    with pytest.raises(Conflict, match="still named by route 'best'"):
        task_deletion(store, [second], with_adapters=True)
    _named(world, "digits", "best", "lora:1, base")
    delete_task(store, task_deletion(store, [second], with_adapters=True))
    assert store.tasks.list() == [world.task]
    assert [adapter.name for adapter in store.adapters.list()] == ["lora"]
    assert [route.name for route in store.routes.list()] == ["best"]
