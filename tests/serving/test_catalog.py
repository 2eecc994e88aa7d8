import pytest

from model_store import routes
from model_store.store import Store
from petl_vit.errors import InvalidInput, NotFound
from serving.catalog import Catalog, Plan
from tests.serving.world import World


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalog(own_world: World, clock: Clock) -> Catalog:
    return Catalog(own_world.store, own_world.backbone.digest, refresh_s=1.0, clock=clock)


def plan(catalog: Catalog, text: str, task: str = "shapes", *, extrapolate: bool = False) -> Plan:
    return catalog.plan(task, routes.parse(text), extrapolate=extrapolate)


def test_a_bare_name_is_a_named_route_before_it_is_an_adapter(own_world: World, catalog: Catalog) -> None:
    own_world.put_route("lora", "ssf, bitfit", temperature=3.0)

    named, adapter = plan(catalog, "lora"), plan(catalog, "lora@latest")

    assert (str(named.resolved), named.named, named.temperature) == ("ssf:1, bitfit:1", "shapes/lora", 3.0)
    assert (str(adapter.resolved), adapter.named, adapter.temperature) == ("lora:2", None, 1.0)


def test_a_name_within_a_larger_route_is_an_adapter(own_world: World, catalog: Catalog) -> None:
    own_world.put_route("lora", "ssf, bitfit")

    assert str(plan(catalog, "lora, ssf").resolved) == "lora:2, ssf:1"
    assert str(plan(catalog, "0.5*lora").resolved) == "0.5*lora:2"


def test_a_named_route_belongs_to_its_task(catalog: Catalog) -> None:
    assert plan(catalog, "best").named == "shapes/best"
    with pytest.raises(NotFound, match="best"):
        plan(catalog, "best", "colours")


def test_a_moved_alias_is_followed_after_the_refresh_and_not_before(
    own_world: World, catalog: Catalog, clock: Clock
) -> None:
    assert str(plan(catalog, "lora@prod").resolved) == "lora:1"
    own_world.store.set_alias("shapes", "lora", "prod", 2)

    clock.now = 0.99
    assert str(plan(catalog, "lora@prod").resolved) == "lora:1"
    clock.now = 1.0
    assert str(plan(catalog, "lora@prod").resolved) == "lora:2"


def test_a_new_version_is_followed_by_those_who_name_none(
    own_world: World, catalog: Catalog, clock: Clock
) -> None:
    assert str(plan(catalog, "lora").resolved) == "lora:2"
    own_world.publish("shapes", "lora", seed=99)
    clock.now = 2

    assert str(plan(catalog, "lora").resolved) == "lora:3"


def test_a_plan_is_kept_without_another_look_at_the_store(
    own_world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    resolve = Store.resolve

    def looked(store: Store, ref: routes.AdapterRef, task: str) -> object:
        looks.append(str(ref))
        return resolve(store, ref, task)

    monkeypatch.setattr(Store, "resolve", looked)
    catalog = Catalog(own_world.store, own_world.backbone.digest, refresh_s=1.0, clock=clock)

    assert plan(catalog, "ssf") is plan(catalog, "ssf")
    assert looks == ["ssf"]
    plan(catalog, "ssf", extrapolate=True)
    assert looks == ["ssf", "ssf"], "what may extrapolate is another plan"


def test_what_could_not_be_resolved_is_looked_for_again(own_world: World, catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        plan(catalog, "late")
    own_world.publish("shapes", "lora", seed=5, name="late")

    assert str(plan(catalog, "late").resolved) == "late:1"


def test_the_task_may_be_left_out_where_there_is_only_one(own_world: World, catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="names no task; set it to one of colours, reordered, shapes"):
        plan(catalog, "lora", "")
    assert str(plan(catalog, "shapes/lora", "").resolved) == "lora:2"

    for task in ("colours", "reordered"):
        for file in sorted((own_world.folder / "tasks" / task).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
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

    with pytest.raises(InvalidInput, match="alpha"):
        plan(catalog, "beyond")


def test_a_route_that_cannot_be_answered_is_left_out_of_the_list(own_world: World, catalog: Catalog) -> None:
    own_world.put_route("gone", "lora, nothing")
    own_world.put_route("damaged", "bitfit")
    manifest = own_world.adapter_file("shapes", "bitfit", 1).with_name("manifest.json")
    manifest.write_text("{")
    own_world.put_route("single", "ssf")

    assert [named.name for named, _ in catalog.named_routes()] == ["single"]


def test_a_damaged_named_route_does_not_stop_a_start(own_world: World, catalog: Catalog) -> None:
    (own_world.folder / "routes" / "shapes" / "torn").write_text("{")

    catalog.named_routes()
    assert plan(catalog, "best").named == "shapes/best"


def test_image_sizes_are_those_of_the_backbones_tasks(catalog: Catalog) -> None:
    assert catalog.image_sizes() == [32]
