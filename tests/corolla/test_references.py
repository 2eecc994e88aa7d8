"""What is said of references beside routes and adapters, and of those that a change has made stale."""

import pytest

from corolla.references import adapter_reference, route_reference, to_measure
from model_store.format.records import NamedRoute
from model_store.resolution import named_route
from model_store.resolution.answering import answering
from model_store.resolution.reference import route_of, route_of_adapter
from model_store.store import Store
from tests.model_store.references import reference_of, usable_of
from tests.model_store.world import World

COMMAND = "corolla routes reference live --task digits"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("references") / "store"
    world = World(Store.open(str(folder)), folder)
    world.store.adapters.publish(world.draft(temperature=1.7), world.adapter(1.0))
    return world


def put(world: World, temperature: float | None = None) -> NamedRoute:
    naming = named_route.check(world.store, task="digits", name="live", text="lora", temperature=temperature)
    world.store.routes.put(naming.route)
    return naming.route


def said(world: World, named: NamedRoute) -> str:
    return to_measure(named, route_reference(world.store, named))


def test_a_change_that_makes_a_reference_stale_says_how_to_measure_it_again(world: World) -> None:
    named = put(world)
    assert said(world, named) == (
        f"it has no reference, so monitoring estimates nothing of it; to measure it: {COMMAND}"
    )
    world.store.references.put(usable_of(route_of(named, answering(world.store, named))))
    assert said(world, named) == ""
    assert said(world, put(world, 2.5)) == (
        f"its reference is stale now, so monitoring estimates nothing of it; to measure it: {COMMAND}"
    )


def test_an_adapter_that_was_not_measured_says_which_commands_do(world: World) -> None:
    manifest = world.store.adapters.manifest("digits", "lora", 1)
    shown = adapter_reference(world.store, manifest)
    assert shown == {
        "state": "none",
        "why": "training makes one; to measure this one: corolla routes put lora-1 lora:1 --task digits && "
        "corolla routes reference lora-1 --task digits --data IMAGES",
    }
    trained = manifest.model_copy(update={"training": {"heldout": "digits"}})
    assert str(adapter_reference(world.store, trained)["why"]).endswith("reference lora-1 --task digits")


def test_the_commands_that_an_adapter_names_give_it_a_reference(world: World) -> None:
    """Of `corolla routes put lora-1 lora:1`: it answers at the adapter's temperature."""
    manifest = world.store.adapters.manifest("digits", "lora", 1)
    naming = named_route.check(world.store, task="digits", name="lora-1", text="lora:1")
    now = answering(world.store, naming.route)
    assert route_of(naming.route, now).digest == route_of_adapter(world.store, manifest).digest
    world.store.references.put(reference_of(route_of(naming.route, now)))
    assert adapter_reference(world.store, manifest)["state"] == "current"
