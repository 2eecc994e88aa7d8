"""Administration over a real store, with an adapter cache that only remembers."""

import pytest

from petl_vit.errors import Conflict, CorollaError, Corrupt, InvalidInput, NotFound
from serving.registry.admin import Admin
from tests.serving.registry.admin.parts import LONG, Parts, refused
from tests.serving.world import World

# Aliases


def test_a_set_alias_is_loaded_and_followed_at_once(admin: Admin, parts: Parts, own_world: World) -> None:
    assert parts.resolved("lora@prod") == "lora:1"
    done = admin.set_alias("lora", "prod", 2, task="shapes")
    alias = done.alias

    assert (str(alias.adapter), alias.alias, alias.version, done.before) == ("shapes/lora", "prod", 2, 1)
    assert parts.resolved("lora@prod") == "lora:2"
    assert own_world.store.adapters.aliases("shapes", "lora") == {"latest": 2, "prod": 2}
    assert parts.cache.names() == ["shapes/lora:2"]
    assert admin.set_alias("shapes/lora", "new", 1).before is None
    assert parts.resolved("lora@new") == "lora:1"


def test_an_alias_moves_only_from_where_it_is_expected(admin: Admin, own_world: World) -> None:
    said = refused(Conflict, "alias", admin.set_alias, "shapes/lora", "prod", 2, expected=2)
    assert "points at version 1, not at 2" in said
    refused(Conflict, "alias", admin.set_alias, "shapes/lora", "new", 2, expected=1)
    assert own_world.store.adapters.aliases("shapes", "lora") == {"latest": 2, "prod": 1}

    admin.set_alias("shapes/lora", "prod", 2, expected=1)
    assert own_world.store.adapters.aliases("shapes", "lora") == {"latest": 2, "prod": 2}


def test_an_alias_does_not_move_to_what_cannot_be_loaded(
    admin: Admin, parts: Parts, own_world: World
) -> None:
    parts.cache.damaged.add("shapes/lora:2")

    refused(Corrupt, "adapter", admin.set_alias, "shapes/lora", "prod", 2)
    assert own_world.store.adapters.aliases("shapes", "lora")["prod"] == 1


@pytest.mark.parametrize(
    ("adapter", "alias", "version", "error", "field"),
    [
        ("", "prod", 1, InvalidInput, "adapter"),
        (LONG, "prod", 1, InvalidInput, "adapter"),
        ("lora:1", "prod", 1, InvalidInput, "adapter"),
        ("lora@prod", "prod", 1, InvalidInput, "adapter"),
        ("base", "prod", 1, InvalidInput, "adapter"),
        ("lorra", "prod", 1, NotFound, "adapter"),
        ("lora", "", 1, InvalidInput, "alias"),
        ("lora", LONG, 1, InvalidInput, "alias"),
        ("lora", "prod", 0, InvalidInput, "version"),
        ("lora", "prod", 2**32 - 1, InvalidInput, "version"),
        ("lora", "prod", 9, NotFound, "version"),
    ],
)
def test_a_bad_alias_is_refused_and_nothing_is_loaded(
    parts: Parts,
    own_world: World,
    adapter: str,
    alias: str,
    version: int,
    error: type[CorollaError],
    field: str,
) -> None:
    refused(error, field, parts.admin.set_alias, adapter, alias, version, task="shapes")
    refused(InvalidInput, "expected_version", parts.admin.set_alias, "shapes/lora", "prod", 2, expected=0)

    assert own_world.store.adapters.aliases("shapes", "lora") == {"latest": 2, "prod": 1}
    assert parts.cache.names() == []


def test_aliases_are_listed_by_task(admin: Admin) -> None:
    found = {f"{a.adapter}@{a.alias}": a.version for a in admin.aliases()}

    assert found["shapes/lora@prod"] == 1
    assert found["colours/lora@latest"] == 1
    assert [str(a.adapter) for a in admin.aliases("colours")] == ["colours/lora"]
    refused(NotFound, "task", admin.aliases, "shaps")


# Named routes


def test_a_put_route_is_loaded_announced_and_followed_at_once(admin: Admin, parts: Parts) -> None:
    named = admin.put_route("shapes", "live", "prob(lora@prod, 0.5*ssf)", temperature=2.0)

    assert (named.route.route, named.resolved) == ("prob(lora@prod, 0.5*ssf:1)", "prob(lora:1, 0.5*ssf:1)")
    assert (named.route.temperature, named.why, named.shadows) == (2.0, "as given", False)
    assert parts.resolved("live") == "prob(lora:1, 0.5*ssf:1)"
    assert sorted(parts.cache.names()) == ["shapes/lora:1", "shapes/ssf:1"]
    assert parts.announced == ["shapes/live"]


def test_a_route_of_one_adapter_has_its_fitted_temperature(admin: Admin) -> None:
    named = admin.put_route("shapes", "solo", "lora@prod")

    assert (named.route.temperature, named.why) == (1.5, "fitted for lora:1 on held-out data")


def test_a_route_that_shadows_an_adapter_says_so(admin: Admin, parts: Parts) -> None:
    named = admin.put_route("shapes", "ssf", "lora, bitfit")

    assert named.shadows
    assert "the adapter of that name is ssf@latest" in named.lines()[-1]
    assert parts.resolved("ssf") == "lora:2, bitfit:1"
    assert parts.resolved("ssf@latest") == "ssf:1"


@pytest.mark.parametrize(
    ("task", "name", "text", "error", "field"),
    [
        ("", "r", "lora", InvalidInput, "task"),
        ("shaps", "r", "lora", NotFound, "task"),
        (LONG, "r", "lora", InvalidInput, "task"),
        ("shapes", "", "lora", InvalidInput, "name"),
        ("shapes", LONG, "lora", InvalidInput, "name"),
        ("shapes", "base", "lora", InvalidInput, "name"),
        ("shapes", "a/b", "lora", InvalidInput, "name"),
        ("shapes", "r", "", InvalidInput, "route"),
        ("shapes", "r", LONG, InvalidInput, "route"),
        ("shapes", "r", "lora,", InvalidInput, "route"),
        ("shapes", "r", "1.2*lora", InvalidInput, "alpha"),
        ("shapes", "r", "0: lora", InvalidInput, "weight"),
        ("shapes", "r", "lora, nothing", NotFound, "adapter"),
        ("shapes", "r", "lora, colours/lora", InvalidInput, "route"),
        ("shapes", "r", "lora + reordered/lora", InvalidInput, "route"),
    ],
)
def test_a_route_that_cannot_answer_is_not_kept(
    admin: Admin, own_world: World, task: str, name: str, text: str, error: type[CorollaError], field: str
) -> None:
    refused(error, field, admin.put_route, task, name, text)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        refused(InvalidInput, "temperature", admin.put_route, "shapes", "r", "lora", temperature=temperature)

    assert [route.name for route in own_world.store.routes.list()] == ["best"]


def test_routes_are_listed_with_what_they_mean_or_why_they_cannot_answer(
    admin: Admin, own_world: World
) -> None:
    own_world.put_route("gone", "lora, nothing")
    (own_world.folder / "routes" / "shapes" / "torn").write_text("{")
    admin.put_route("shapes", "beyond", "1.5*lora", extrapolate=True)
    found = {state.name: state for state in admin.routes("shapes")}

    assert list(found) == ["best", "beyond", "gone", "torn"]
    assert str(found["best"].plan and found["best"].plan.resolved) == "lora:2, ssf:1, 0.5*bitfit:1"
    assert found["beyond"].plan is not None
    assert "no adapter 'nothing'" in found["gone"].problem
    assert found["torn"].route is None
    assert "not JSON" in found["torn"].problem
    assert admin.routes("colours") == []
    refused(NotFound, "task", admin.routes, "shaps")


def test_a_deleted_route_is_gone_at_once_even_a_damaged_one(
    admin: Admin, parts: Parts, own_world: World
) -> None:
    (own_world.folder / "routes" / "shapes" / "torn").write_text("{")
    assert admin.delete_route("shapes", "best") == "shapes"
    admin.delete_route("shapes", "torn")

    assert admin.routes() == []
    with pytest.raises(NotFound):
        parts.resolved("best")
    refused(NotFound, "route", admin.delete_route, "shapes", "best")
    refused(InvalidInput, "name", admin.delete_route, "shapes", LONG)
    refused(InvalidInput, "task", admin.delete_route, "", "best")


# Reload


def test_a_reload_answers_what_changed_and_loads_it(admin: Admin, parts: Parts, own_world: World) -> None:
    own_world.put_route("best", "bitfit")

    assert [(c.name, c.before, c.after) for c in admin.reload()] == [
        ("shapes/best", "lora, ssf, 0.5*bitfit", "bitfit")
    ]
    assert parts.cache.names() == ["shapes/bitfit:1"]
    assert parts.announced == ["shapes/best"]
    assert admin.reload() == []
