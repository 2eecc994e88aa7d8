"""A temperature belongs to the versions it was put for: what is applied when others answer."""

import json
from pathlib import Path

import pytest

from model_store.format.records import Draft, NamedRoute
from model_store.resolution import named_route
from model_store.resolution.answering import Answering, answering
from model_store.store import Store
from tests.model_store.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """`lora:1` was fitted at 1.7 and is `prod`."""
    world = World(Store.open(str(tmp_path / "store")), tmp_path / "store")
    world.store.adapters.publish(world.draft(temperature=1.7), world.adapter(1.0))
    world.store.adapters.publish(world.draft("ssf"), world.adapter(3.0))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    return world


def put(world: World, text: str, **options: object) -> None:
    naming = named_route.check(world.store, task="digits", name="live", text=text, **options)  # type: ignore[arg-type]
    world.store.routes.put(naming.route)


def retrain(world: World, temperature: float = 2.5, value: float = 2.0) -> None:
    world.store.adapters.publish(world.draft(temperature=temperature), world.adapter(value))


def now(world: World) -> Answering:
    return answering(world.store, world.store.routes.get("digits", "live"))


def test_retraining_moves_neither_a_pinned_route_nor_its_temperature(world: World) -> None:
    put(world, "lora")
    retrain(world)
    assert (str(now(world).resolved), now(world).temperature, now(world).note) == ("lora:1", 1.7, "")


@pytest.mark.parametrize(("text", "follow"), [("lora", True), ("lora@prod", False)])
def test_the_fitted_temperature_of_one_adapter_is_that_of_the_version_that_answers(
    world: World, text: str, follow: bool
) -> None:
    put(world, text, follow=follow)
    assert now(world).temperature == 1.7
    retrain(world)
    world.store.adapters.set_alias("digits", "lora", "prod", 2)
    answer = now(world)
    assert (str(answer.resolved), answer.temperature) == ("lora:2", 2.5)
    assert answer.note == (
        "temperature 1.7 is for digits/lora:1 and is not applied: digits/lora:2 answers at 2.5, "
        "fitted for lora:2 on held-out data"
    )
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    if not follow:  # rolled back, it is the one that was put again
        assert (now(world).temperature, now(world).note) == (1.7, "")


def test_a_given_temperature_of_an_ensemble_is_dropped_with_the_remedy(world: World) -> None:
    put(world, "lora@prod, ssf", temperature=1.3)
    assert now(world).temperature == 1.3
    retrain(world)
    assert now(world).temperature == 1.3, "nothing of it has changed"
    world.store.adapters.set_alias("digits", "lora", "prod", 2)
    answer = now(world)
    assert (str(answer.resolved), answer.temperature) == ("lora:2, ssf:1", 1.0)
    assert "temperature 1.3 is for digits/lora:1, digits/ssf:1 and is not applied" in answer.note
    assert "`corolla routes fit live --task digits --data IMAGES`" in answer.note


def test_other_places_of_the_same_versions_are_other_models(world: World) -> None:
    retrain(world)
    world.store.adapters.set_alias("digits", "lora", "old", 2)
    put(world, "lora@prod, lora@old, 0.5*lora@prod", temperature=1.3)
    assert now(world).temperature == 1.3
    for alias, version in (("prod", 2), ("old", 1)):
        world.store.adapters.set_alias("digits", "lora", alias, version)
    assert now(world).temperature == 1.0


def test_another_number_of_the_same_content_keeps_the_temperature(world: World) -> None:
    put(world, "lora@prod", temperature=1.3)
    retrain(world)
    retrain(world, temperature=1.7, value=1.0)  # the tensors of version 1 again
    world.store.adapters.set_alias("digits", "lora", "prod", 3)
    assert (str(now(world).resolved), now(world).temperature, now(world).note) == ("lora:3", 1.3, "")


def test_a_temperature_of_one_that_is_still_right_is_no_news(world: World) -> None:
    put(world, "lora@prod, ssf")
    retrain(world)
    world.store.adapters.set_alias("digits", "lora", "prod", 2)
    assert (now(world).temperature, now(world).note) == (1.0, "")


def test_a_temperature_that_was_not_fitted_is_not_called_fitted(world: World) -> None:
    unfitted = {"temperature_unfitted": "9 held-out images are fewer than 50"}
    draft = Draft.of(**dict(world.draft("few")) | {"training": unfitted})
    world.store.adapters.publish(draft, world.adapter(2.0))
    naming = named_route.check(world.store, task="digits", name="live", text="few")
    assert naming.why == "not fitted for few:1, as 9 held-out images are fewer than 50"


def test_a_route_of_an_older_store_follows_as_before_and_says_so(world: World) -> None:
    file = world.folder / "routes" / "digits" / "live"
    file.parent.mkdir(parents=True)
    document = {"format_version": 1, "task": "digits", "name": "live", "route": "lora", "temperature": 1.7}
    file.write_text(json.dumps(document))
    route = world.store.routes.get("digits", "live")
    assert (route.follows, route.versions) == (("lora",), ())
    assert (now(world).temperature, now(world).note) == (1.7, "")
    retrain(world)
    answer = now(world)
    assert (str(answer.resolved), answer.temperature) == ("lora:2", 1.7)
    assert "stored without the versions that it is for" in answer.note
    assert "put the route again" in answer.note


def test_an_older_route_of_exact_versions_needs_no_note(world: World) -> None:
    retrain(world)
    world.store.routes.put(NamedRoute.of(task="digits", name="live", route="lora:1, ssf:1", temperature=2.0))
    assert (now(world).temperature, now(world).note) == (2.0, "")
