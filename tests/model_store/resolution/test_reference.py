"""Which reference belongs to what answers now."""

import pytest

from model_store.format.records import NamedRoute
from model_store.format.reference import Reference
from model_store.resolution import named_route
from model_store.resolution.answering import answering
from model_store.resolution.reference import (
    of_adapter,
    of_named,
    referenced_route,
    route_of,
    route_of_adapter,
)
from tests.model_store.references import reference_of
from tests.model_store.world import World


@pytest.fixture
def world(world: World) -> World:
    """`lora:1`, which is `prod`, and `ssf:1`."""
    world.store.adapters.publish(world.draft(temperature=1.7), world.adapter(1.0))
    world.store.adapters.publish(world.draft("ssf"), world.adapter(3.0))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    return world


def put(world: World, text: str, name: str = "live", **options: object) -> NamedRoute:
    naming = named_route.check(world.store, task="digits", name=name, text=text, **options)  # type: ignore[arg-type]
    world.store.routes.put(naming.route)
    return naming.route


def measured(world: World, named: NamedRoute) -> Reference:
    reference = reference_of(route_of(named, answering(world.store, named)))
    fields = {"member_accuracies": (0.5,) * len(reference.route.members)}
    members = len(reference.route.members)
    pairs = [
        {
            "first": i,
            "second": j,
            "agreements": 2,
            "both_correct": 1,
            "first_only": 0,
            "second_only": 0,
            "both_wrong": 1,
        }
        for i in range(members)
        for j in range(i + 1, members)
    ]
    whole = Reference.of(**(dict(reference) | fields | {"pairs": tuple(pairs)}))
    world.store.references.put(whole)
    return whole


def test_a_route_that_was_measured_has_its_reference(world: World) -> None:
    named = put(world, "lora, ssf")
    assert of_named(world.store, named).reference is None
    reference = measured(world, named)
    found = of_named(world.store, named)
    assert (found.reference, found.stale) == (reference, "")


def test_a_route_of_one_adapter_has_the_reference_of_that_adapter(world: World) -> None:
    manifest = world.store.adapters.manifest("digits", "lora", 1)
    reference = reference_of(route_of_adapter(world.store, manifest))
    world.store.references.put(reference)
    assert of_adapter(world.store, manifest).reference == reference
    assert of_named(world.store, put(world, "lora")).reference == reference


def test_an_adapter_has_first_the_reference_of_its_own_held_out_images(world: World) -> None:
    draft = world.draft("bitfit")
    draft = draft.model_copy(update={"training": {"heldout_digest": "a" * 64}})
    manifest = world.store.adapters.publish(draft, world.adapter(5.0))
    route = route_of_adapter(world.store, manifest)
    own, later = reference_of(route, data="a" * 64), reference_of(route, data="b" * 64, minute=5)
    for reference in (own, later):
        world.store.references.put(reference)
    assert of_adapter(world.store, manifest).reference == own


def test_another_temperature_makes_a_reference_stale(world: World) -> None:
    reference = measured(world, put(world, "lora, ssf"))
    found = of_named(world.store, put(world, "lora, ssf", temperature=2.5))
    assert found.reference == reference
    assert found.stale == "its temperature was 1, now 2.5"


def test_a_moved_alias_makes_a_reference_stale(world: World) -> None:
    named = put(world, "lora@prod, ssf")
    measured(world, named)
    world.store.adapters.publish(world.draft(temperature=2.0), world.adapter(2.0))
    assert of_named(world.store, named).stale == ""
    world.store.adapters.set_alias("digits", "lora", "prod", 2)
    assert of_named(world.store, named).stale == "it was lora:1, ssf:1, now lora:2, ssf:1"
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    assert of_named(world.store, named).stale == ""


def test_other_members_weights_and_rules_make_a_reference_stale(world: World) -> None:
    measured(world, put(world, "lora, ssf"))
    for text in ("lora", "lora, 0.5*ssf", "2: lora, ssf", "prob(lora, ssf)"):
        assert of_named(world.store, put(world, text)).stale.startswith("it was lora:1, ssf:1, now ")


def test_a_reference_of_members_of_the_same_names_is_told_under_another_name(world: World) -> None:
    measured(world, put(world, "lora, ssf", name="old"))
    found = of_named(world.store, put(world, "lora, ssf", name="new", temperature=3.0))
    assert found.stale == "its temperature was 1, now 3"
    assert of_named(world.store, put(world, "ssf", name="third")).reference is None


def test_the_digest_counts_what_is_computed_and_not_what_it_is_called(world: World) -> None:
    resolved = answering(world.store, put(world, "lora, ssf")).resolved
    plain = referenced_route(resolved, 1.0)
    assert referenced_route(resolved, 1.0, name="live").digest == plain.digest
    assert referenced_route(resolved, 1.1).digest != plain.digest
