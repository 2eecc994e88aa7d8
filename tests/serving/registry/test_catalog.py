from collections.abc import Callable

import pytest

from model_store.format.records import Draft
from model_store.routes.text import parse_adapter, parse_route
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound, Unsupported
from serving.registry.catalog import Catalog, Change, Plan, Refreshed
from tests.serving.world import CONFIG, SHAPES, World, backbone_tensors


@pytest.fixture
def catalog(own_world: World) -> Catalog:
    return Catalog(own_world.store, own_world.backbone.digest)


def plan(catalog: Catalog, text: str, task: str = "shapes", *, extrapolate: bool = False) -> Plan:
    return catalog.plan(task, parse_route(text), extrapolate=extrapolate)


def resolved(catalog: Catalog, text: str, task: str = "shapes") -> str:
    return str(plan(catalog, text, task).resolved)


@pytest.fixture
def lose(own_world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the store unreachable."""

    def lost(*_: object) -> None:
        raise CorollaError("the store cannot be read")

    def lose() -> None:
        for asked in ("read", "stamps"):
            monkeypatch.setattr(own_world.store.place, asked, lost)

    return lose


# What names mean


def test_a_bare_name_is_a_named_route_before_it_is_an_adapter(own_world: World, catalog: Catalog) -> None:
    own_world.put_route("lora", "ssf, bitfit", temperature=3.0)
    catalog.refresh()

    named, adapter = plan(catalog, "lora"), plan(catalog, "lora@latest")

    assert (str(named.resolved), named.named, named.temperature) == ("ssf:1, bitfit:1", "shapes/lora", 3.0)
    assert (str(adapter.resolved), adapter.named, adapter.temperature) == ("lora:2", None, 1.0)


def test_a_name_within_a_larger_route_is_an_adapter(own_world: World, catalog: Catalog) -> None:
    own_world.put_route("lora", "ssf, bitfit")
    catalog.refresh()

    assert str(plan(catalog, "lora, ssf").resolved) == "lora:2, ssf:1"
    assert str(plan(catalog, "0.5*lora").resolved) == "0.5*lora:2"


def test_a_named_route_belongs_to_its_task(catalog: Catalog) -> None:
    assert plan(catalog, "best").named == "shapes/best"
    with pytest.raises(NotFound, match="best"):
        plan(catalog, "best", "colours")


def test_a_plan_is_kept_without_another_look_at_the_store(catalog: Catalog, lose: Callable[[], None]) -> None:
    kept = plan(catalog, "ssf, lora@prod, base")
    lose()

    assert plan(catalog, "ssf, lora@prod, base") is kept
    assert resolved(catalog, "vote(0.5*ssf, lora:1)") == "vote(0.5*ssf:1, lora:1)", (
        "other routes of known names"
    )
    assert resolved(catalog, "lora@prod", task="shapes") == "lora:1"


def test_what_could_not_be_resolved_is_looked_for_again(own_world: World, catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        plan(catalog, "late")
    own_world.publish("shapes", "lora", seed=5, name="late")

    assert resolved(catalog, "late") == "late:1"


def test_the_task_may_be_left_out_where_there_is_only_one(own_world: World, catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="names no task; set it to one of colours, reordered, shapes"):
        plan(catalog, "lora", "")
    assert str(plan(catalog, "shapes/lora", "").resolved) == "lora:2"

    for task in ("colours", "reordered"):
        for file in sorted((own_world.folder / "tasks" / task).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
    catalog.refresh()
    assert plan(catalog, "best", "").named == "shapes/best"


def test_alpha_outside_its_range_needs_to_be_asked_for(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="alpha") as caught:
        plan(catalog, "1.5*lora")
    assert caught.value.field == "alpha"

    assert str(plan(catalog, "1.5*lora", extrapolate=True).resolved) == "1.5*lora:2"


def test_a_named_route_keeps_to_the_range_unless_it_was_kept_as_extrapolating(
    own_world: World, catalog: Catalog
) -> None:
    own_world.put_route("beyond", "1.5*lora")
    catalog.refresh()

    with pytest.raises(InvalidInput, match="alpha"):
        plan(catalog, "beyond")


def test_a_route_that_cannot_be_answered_is_left_out_of_the_list(own_world: World, catalog: Catalog) -> None:
    own_world.put_route("gone", "lora, nothing")
    own_world.put_route("damaged", "full")
    manifest = own_world.adapter_file("shapes", "full", 1).with_name("manifest.json")
    manifest.write_text("{")
    own_world.put_route("single", "ssf")
    (own_world.folder / "routes" / "shapes" / "torn").write_text("{")
    catalog.refresh()

    assert [named.name for named, _ in catalog.named_routes()] == ["best", "single"]


def test_what_is_served_by_name_is_every_base_and_every_route(catalog: Catalog) -> None:
    assert [str(route) for route in catalog.served()] == ["base"] * 3 + ["lora:2, ssf:1, 0.5*bitfit:1"]


def test_a_misspelt_route_suggests_routes_and_adapters(own_world: World, catalog: Catalog) -> None:
    with pytest.raises(NotFound, match=r"no adapter or named route 'bset' .* did you mean best\?"):
        plan(catalog, "bset")
    with pytest.raises(NotFound, match=r"did you mean lora\?"):
        plan(catalog, "lorra")
    with pytest.raises(NotFound, match="no adapter 'bset'"):
        plan(catalog, "bset, lora")


def test_a_term_is_one_adapter_and_never_a_named_route(own_world: World, catalog: Catalog) -> None:
    own_world.put_route("lora", "ssf, bitfit")
    catalog.refresh()

    assert catalog.term("shapes", parse_adapter("lora")).full_name == "shapes/lora:2"
    assert catalog.term("", parse_adapter("shapes/base")).manifest is None
    own_world.publish("shapes", "lora", seed=5, name="late")
    assert catalog.term("shapes", parse_adapter("late")).full_name == "shapes/late:1"
    with pytest.raises(NotFound, match=r"did you mean lora\?"):
        catalog.term("shapes", parse_adapter("lorra"))
    with pytest.raises(InvalidInput, match="names no task"):
        catalog.term("", parse_adapter("lora"))


def test_an_adapter_of_another_backbone_is_refused(own_world: World, catalog: Catalog) -> None:
    other = own_world.store.backbones.put("second", CONFIG, backbone_tensors(1), "random")
    task = own_world.put_task("animals", SHAPES, other)
    ours = own_world.store.adapters.manifest("shapes", "lora", 1)
    theirs = {"task": "animals", "backbone_digest": other.digest, "task_digest": task.digest}
    draft = Draft.of(**{name: getattr(ours, name) for name in Draft.model_fields} | theirs)
    own_world.store.adapters.publish(draft, own_world.store.adapters.load(ours))
    catalog.refresh()

    with pytest.raises(Unsupported, match="belongs to backbone"):
        catalog.term("animals", parse_adapter("lora"))


# Following the store


def test_a_moved_alias_is_followed_at_the_next_refresh_and_not_before(
    own_world: World, catalog: Catalog
) -> None:
    assert resolved(catalog, "lora@prod") == "lora:1"
    own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)

    assert resolved(catalog, "lora@prod") == "lora:1"
    catalog.refresh()
    assert resolved(catalog, "lora@prod") == "lora:2"


def test_a_new_version_is_followed_by_those_who_name_none(own_world: World, catalog: Catalog) -> None:
    assert resolved(catalog, "lora") == "lora:2"
    own_world.publish("shapes", "lora", seed=99)
    catalog.refresh()

    assert resolved(catalog, "lora") == "lora:3"


def test_names_that_were_asked_for_are_read_by_the_refresh_and_not_by_requests(
    own_world: World, catalog: Catalog, lose: Callable[[], None]
) -> None:
    resolved(catalog, "lora@prod")
    own_world.store.adapters.manifest("shapes", "lora", 2)
    resolved(catalog, "lora:2")
    own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
    catalog.refresh()
    lose()

    assert resolved(catalog, "lora@prod") == "lora:2"


def test_what_a_changed_route_means_is_warm_before_any_request_sees_it(
    own_world: World, catalog: Catalog
) -> None:
    own_world.put_route("other", "ssf")
    own_world.put_route("best", "bitfit")
    seen: list[tuple[str | None, str, str]] = []

    def warm(plan: Plan) -> None:
        seen.append((plan.named, str(plan.resolved), resolved(catalog, "best")))

    changed = catalog.refresh(warm)

    assert seen == [
        ("shapes/best", "bitfit:1", "lora:2, ssf:1, 0.5*bitfit:1"),
        ("shapes/other", "ssf:1", "lora:2, ssf:1, 0.5*bitfit:1"),
    ]
    assert [plan.named for plan in changed.plans] == ["shapes/best", "shapes/other"]
    assert resolved(catalog, "best") == "bitfit:1"


def test_a_route_whose_alias_moved_has_changed_and_others_have_not(
    own_world: World, catalog: Catalog
) -> None:
    own_world.put_route("live", "lora@prod")
    catalog.refresh()
    own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)

    assert [str(plan.resolved) for plan in catalog.refresh().plans] == ["lora:2"]
    assert catalog.refresh() == Refreshed()


def test_a_store_that_is_lost_leaves_everything_as_it_was(
    catalog: Catalog, lose: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolved(catalog, "best")
    lose()
    with pytest.raises(CorollaError, match="cannot be read"):
        catalog.refresh()
    with pytest.raises(CorollaError, match="cannot be read"):
        catalog.reload()
    assert resolved(catalog, "best") == before
    with pytest.raises(CorollaError, match="cannot be read"):
        plan(catalog, "never-heard-of")

    monkeypatch.undo()
    assert catalog.refresh() == Refreshed()


def test_a_deleted_version_is_forgotten_by_a_reload(own_world: World, catalog: Catalog) -> None:
    assert resolved(catalog, "lora:1") == "lora:1"
    own_world.store.adapters.remove("shapes", "lora", 1)
    changes = catalog.reload().changes

    with pytest.raises(NotFound, match="has no version 1"):
        plan(catalog, "lora:1")
    assert [(change.name, change.after) for change in changes] == [("shapes/lora:1", "")]


def test_a_reload_says_what_changed(own_world: World, catalog: Catalog) -> None:
    resolved(catalog, "lora@prod"), resolved(catalog, "best")
    own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
    own_world.store.routes.delete("shapes", "best")
    own_world.put_route("new", "ssf")
    manifest = own_world.publish("shapes", "lora", seed=5, name="late")
    (own_world.folder / "routes" / "shapes" / "torn").write_text("{")

    reloaded = catalog.reload()

    assert reloaded.changes == [
        Change(name="shapes/late:1", before="", after=manifest.digest),
        Change(name="shapes/late@latest", before="", after="1"),
        Change(name="shapes/lora@prod", before="1", after="2"),
        Change(name="shapes/best", before="lora, ssf, 0.5*bitfit", after=""),
        Change(name="shapes/new", before="", after="ssf"),
        Change(name="shapes/torn", before="", after="damaged"),
    ]
    assert [plan.named for plan in reloaded.plans] == ["shapes/new"]
    assert catalog.reload() == Refreshed()


def test_a_damaged_alias_is_refused_until_it_is_repaired(own_world: World, catalog: Catalog) -> None:
    file = own_world.folder / "aliases" / "shapes" / "lora" / "prod"
    fine = file.read_text()
    file.write_text("{")
    catalog.refresh()
    with pytest.raises(Corrupt, match="not JSON"):
        plan(catalog, "lora@prod")
    assert resolved(catalog, "lora") == "lora:2"

    file.write_text(fine)
    catalog.refresh()
    assert resolved(catalog, "lora@prod") == "lora:1"
