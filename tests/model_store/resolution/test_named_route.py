"""What is stored when a route is put: pinned versions, aliases, and the temperature that belongs to them."""

from pathlib import Path

import pytest

from model_store.resolution import named_route, versions
from model_store.resolution.versions import ResolvedRoute
from model_store.store import Store
from tests.model_store.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """`lora` has two versions, of which `prod` is the first; `ssf` has one."""
    world = World(Store.open(str(tmp_path / "store")), tmp_path / "store")
    world.store.adapters.publish(world.draft(temperature=1.7), world.adapter(1.0))
    world.store.adapters.publish(world.draft(temperature=2.5), world.adapter(2.0))
    world.store.adapters.publish(world.draft("ssf"), world.adapter(3.0))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    return world


def named(world: World, text: str, **options: object) -> named_route.Naming:
    return named_route.check(world.store, task="digits", name="live", text=text, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("lora", "lora:2"),
        ("lora@latest", "lora:2"),
        ("lora:1", "lora:1"),
        ("lora@prod", "lora@prod"),
        ("digits/lora", "digits/lora:2"),
        ("base", "base"),
        ("0.5*lora + 0.5*ssf", "0.5*lora:2 + 0.5*ssf:1"),
        ("vote(2: lora, 1: lora@prod, 0.3*lora + base)", "vote(2: lora:2, lora@prod, 0.3*lora:2 + base)"),
    ],
)
def test_what_names_no_version_is_pinned_and_all_else_stays(world: World, text: str, stored: str) -> None:
    assert named(world, text).route.route == stored


def test_what_moves_the_route_later_is_said(world: World) -> None:
    assert named(world, "lora, ssf").notes == (
        "pinned: lora as lora:2, ssf as ssf:1; later versions do not move it (--follow would)",
    )
    assert named(world, "lora@prod").notes == (
        "stays an alias: lora@prod; `corolla adapters alias` moves it",
    )
    assert named(world, "lora:1, base").notes == ()


def test_followed_names_stay_as_they_are_and_that_is_said(world: World) -> None:
    naming = named(world, "lora, ssf:1, lora@prod", follow=True)
    assert naming.route.route == "lora, ssf:1, lora@prod"
    assert naming.route.follows == ("lora",)
    assert naming.notes[0].startswith("follows lora: the next registered version answers")
    assert "stays an alias: lora@prod" in naming.notes[1]
    assert named(world, "lora:1", follow=True).notes == (
        "--follow changes nothing: every adapter has a version or an alias",
    )


def test_the_exact_versions_are_stored_whatever_the_text_says(world: World) -> None:
    route = named(world, "lora@prod, 0.5*lora + ssf, base").route
    assert [version.adapter for version in route.versions] == [
        "digits/lora:1",
        "digits/lora:2",
        "digits/ssf:1",
        "digits/base",
    ]
    assert route.versions[0].digest == world.store.adapters.manifest("digits", "lora", 1).digest
    assert route.versions[3].digest == world.task.digest


def test_what_is_registered_while_a_route_is_put_leaves_version_and_temperature_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = versions.resolve

    def then_registered(*arguments: object, **options: object) -> ResolvedRoute:
        resolved = resolve(*arguments, **options)  # type: ignore[arg-type]
        world.store.adapters.publish(world.draft(temperature=9.0), world.adapter(9.0))
        return resolved

    monkeypatch.setattr(versions, "resolve", then_registered)
    naming = named(world, "lora")
    assert (naming.route.route, naming.route.temperature) == ("lora:2", 2.5)
    assert naming.why == "fitted for lora:2 on held-out data"
    assert world.store.adapters.versions("digits", "lora") == [1, 2, 3]
