"""Administration over a real store, with an adapter cache that only remembers."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from model_store.format.records import Draft
from model_store.resolution.versions import ResolvedTerm
from model_store.routes.text import parse_route
from petl_vit.errors import Conflict, CorollaError, Corrupt, InvalidInput, NotFound, Unsupported
from serving.registry.admin import Admin
from serving.registry.catalog import Catalog, Plan
from serving.registry.changes import Changes
from serving.registry.listing import AdapterState
from serving.registry.resident import Resident
from serving.registry.watcher import Watcher
from tests.serving.world import CONFIG, METHODS, SHAPES, World, backbone_tensors

LONG = "x" * 10_000


class RememberingCache:
    """Every adapter takes 100 bytes; what is in `damaged` cannot be loaded."""

    def __init__(self) -> None:
        self.held: dict[str, Resident] = {}
        self.damaged: set[str] = set()

    def load(self, term: ResolvedTerm) -> Resident:
        if term.full_name in self.damaged:
            raise Corrupt(f"adapter {term.full_name} cannot be loaded", field="adapter")
        known = self.held.pop(term.digest, None)
        names = dict.fromkeys([*(known.names if known else ()), term.full_name])
        self.held[term.digest] = Resident(
            digest=term.digest,
            names=tuple(names),
            method=term.method,
            registered_bytes=100,
            in_slot=True,
            slot_bytes=10,
            pinned=known.pinned if known else False,
            rows_in_use=0,
            last_used_at=time.time(),
        )
        return self.held[term.digest]

    def unload(self, *digests: str) -> dict[str, int]:
        held = [digest for digest in digests if digest in self.held]
        if any(self.held[digest].pinned for digest in held):
            raise Conflict("it is pinned", field="adapter", remedy="unpin it first")
        return {digest: self.held.pop(digest).registered_bytes for digest in held}

    def pin(self, term: ResolvedTerm) -> Resident:
        self.held[term.digest] = replace(self.load(term), pinned=True)
        return self.held[term.digest]

    def unpin(self, digest: str) -> Resident | None:
        if digest not in self.held:
            return None
        self.held[digest] = replace(self.held[digest], pinned=False)
        return self.held[digest]

    def residents(self) -> list[Resident]:
        return list(self.held.values())[::-1]

    def names(self) -> list[str]:
        return [name for resident in self.residents() for name in resident.names]


class Parts:
    """An administration and what it stands on."""

    def __init__(self, world: World) -> None:
        self.catalog = Catalog(world.store, world.backbone.digest)
        self.cache = RememberingCache()
        self.pool = ThreadPoolExecutor(1)
        self.announced: list[str | None] = []
        self.watcher = Watcher(
            self.catalog,
            load=self._load,
            announce=lambda plan: self.announced.append(plan.named),
            changes=Changes(world.store),
            every_s=0.01,
            pool=self.pool,
        )
        self.admin = Admin(
            store=world.store,
            catalog=self.catalog,
            cache=self.cache,
            watcher=self.watcher,
            registered_budget=1000,
            slot_budget=50,
        )

    def _load(self, plan: Plan) -> None:
        for term in plan.resolved.terms():
            self.cache.load(term)

    def resolved(self, text: str, task: str = "shapes") -> str:
        return str(self.catalog.plan(task, parse_route(text), extrapolate=False).resolved)


@pytest.fixture
def parts(own_world: World) -> Iterator[Parts]:
    parts = Parts(own_world)
    yield parts
    parts.pool.shutdown()


@pytest.fixture
def admin(parts: Parts) -> Admin:
    return parts.admin


def refused(
    error: type[CorollaError], field: str | None, call: object, *words: object, **options: object
) -> str:
    with pytest.raises(error) as caught:
        call(*words, **options)  # type: ignore[operator]
    assert caught.value.field == field, str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def states(admin: Admin, task: str = "", *, resident_only: bool = False) -> dict[str, AdapterState]:
    listing = admin.adapters(task, resident_only=resident_only)
    return {state.name: state for state in listing.adapters}


# Adapters


def test_everything_of_the_backbone_is_listed_with_what_is_in_memory_first(admin: Admin) -> None:
    admin.load("lora@prod", "shapes")
    admin.load("shapes/base")
    names = list(states(admin))

    assert names[:2] == ["shapes/base", "shapes/lora:1"]
    assert set(names) == {
        *(f"{task}/base" for task in ("shapes", "reordered", "colours")),
        *(f"shapes/{method}:1" for method in METHODS),
        "shapes/lora:2",
        "reordered/lora:1",
        "colours/lora:1",
    }
    assert len(names) == len(set(names))


def test_an_entry_says_all_there_is_to_know(admin: Admin, own_world: World) -> None:
    before = time.time()
    admin.pin("lora@prod", "shapes")
    found = states(admin)
    manifest = own_world.store.adapters.manifest("shapes", "lora", 1)
    pinned, idle = found["shapes/lora:1"], found["shapes/lora:2"]

    assert (pinned.digest, pinned.method, pinned.aliases) == (manifest.digest, "lora", ("prod",))
    assert pinned.resident is not None
    assert (pinned.resident.pinned, pinned.resident.in_slot) == (True, True)
    assert pinned.resident.last_used_at >= before
    assert (idle.aliases, idle.resident, idle.stored) == (("latest",), None, True)
    assert found["colours/base"].method == "linear"


def test_a_listing_can_be_of_one_task_and_of_what_is_in_memory(admin: Admin) -> None:
    admin.load("shapes/lora:1")
    admin.load("colours/lora")

    assert list(states(admin, "colours")) == ["colours/lora:1", "colours/base"]
    assert list(states(admin, resident_only=True)) == ["colours/lora:1", "shapes/lora:1"]
    assert list(states(admin, "shapes", resident_only=True)) == ["shapes/lora:1"]
    assert "did you mean shapes?" in refused(NotFound, "task", admin.adapters, "shaps")
    refused(InvalidInput, "task", admin.adapters, LONG)


def test_totals_count_each_digest_once_beside_the_budgets(admin: Admin, own_world: World) -> None:
    tensors = own_world.store.adapters.load(own_world.store.adapters.manifest("shapes", "ssf", 1))
    ours = own_world.store.adapters.manifest("shapes", "ssf", 1)
    values = {name: getattr(ours, name) for name in Draft.model_fields} | {"name": "copy"}
    own_world.store.adapters.publish(Draft.of(**values), tensors)
    for name in ("shapes/ssf", "shapes/copy", "shapes/lora"):
        admin.load(name)
    listing = admin.adapters("colours")

    registered, slots = listing.registered, listing.slots
    assert (registered.adapters, registered.size, registered.budget) == (2, 200, 1000)
    assert (slots.adapters, slots.size, slots.budget) == (2, 20, 50)
    assert states(admin)["shapes/copy:1"].resident == states(admin)["shapes/ssf:1"].resident


def test_a_damaged_record_is_listed_with_its_problem_and_hides_nothing(
    admin: Admin, own_world: World
) -> None:
    manifest = own_world.adapter_file("shapes", "bitfit", 1).with_name("manifest.json")
    manifest.write_text("{")
    (own_world.folder / "aliases" / "shapes" / "ssf" / "torn").write_text("{")
    admin.reload()
    found = states(admin)

    assert "not JSON" in found["shapes/bitfit:1"].problem
    assert found["shapes/ssf:1"].aliases == ()
    assert found["shapes/lora:2"].aliases == ("latest",)


def test_what_was_deleted_from_the_store_is_listed_while_it_is_in_memory(
    admin: Admin, own_world: World
) -> None:
    own_world.publish("shapes", "lora", seed=9, name="gone")
    admin.load("shapes/gone:1")
    own_world.store.adapters.remove("shapes", "gone", 1)
    admin.reload()

    assert states(admin)["shapes/gone:1"].stored is False
    assert list(states(admin, resident_only=True)) == ["shapes/gone:1"]
    assert admin.unload("shapes/gone:1").freed == 100
    assert "shapes/gone:1" not in states(admin)


def test_adapters_of_another_backbone_are_neither_listed_nor_loaded(admin: Admin, own_world: World) -> None:
    other = own_world.store.backbones.put("second", CONFIG, backbone_tensors(1), "random")
    task = own_world.put_task("animals", SHAPES, other)
    ours = own_world.store.adapters.manifest("shapes", "lora", 1)
    theirs = {"task": "animals", "backbone_digest": other.digest, "task_digest": task.digest}
    draft = Draft.of(**{name: getattr(ours, name) for name in Draft.model_fields} | theirs)
    own_world.store.adapters.publish(draft, own_world.store.adapters.load(ours))
    admin.reload()

    assert not [name for name in states(admin) if name.startswith("animals")]
    refused(Unsupported, "route", admin.load, "animals/lora")
    refused(Unsupported, "route", admin.set_alias, "animals/lora", "prod", 1)


def test_an_unloaded_adapter_is_gone_and_says_what_it_freed(admin: Admin, parts: Parts) -> None:
    admin.load("lora:2", "shapes")
    unloaded = admin.unload("lora", "shapes")

    assert (unloaded.name, unloaded.freed) == ("shapes/lora:2", 100)
    assert parts.cache.names() == []


def test_unloading_and_unpinning_what_is_not_in_memory_is_done_already(admin: Admin, parts: Parts) -> None:
    admin.load("shapes/lora:2")

    unloaded, state = admin.unload("shapes/lora:1"), admin.unpin("shapes/ssf")
    assert (unloaded.name, unloaded.freed) == ("shapes/lora:1", None)
    assert (state.name, state.method, state.resident) == ("shapes/ssf:1", "ssf", None)
    assert parts.cache.names() == ["shapes/lora:2"]


def test_a_pinned_adapter_is_not_unloaded(admin: Admin, parts: Parts) -> None:
    assert admin.pin("shapes/lora").resident is not None
    assert "unpin it first" in refused(Conflict, "adapter", admin.unload, "shapes/lora")
    assert parts.cache.names() == ["shapes/lora:2"]

    state = admin.unpin("shapes/lora")
    assert state.resident is not None
    assert (state.resident.pinned, state.aliases) == (False, ("latest",))
    assert admin.unload("shapes/lora").freed == 100


@pytest.mark.parametrize("call", ["load", "unload", "pin", "unpin"])
@pytest.mark.parametrize(
    ("adapter", "error", "field"),
    [
        ("", InvalidInput, "adapter"),
        (LONG, InvalidInput, "adapter"),
        ("lora,", InvalidInput, "adapter"),
        ("lora, ssf", InvalidInput, "adapter"),
        ("0.5*lora", InvalidInput, "adapter"),
        ("../../etc/passwd", InvalidInput, "adapter"),
        ("lora:0", InvalidInput, "adapter"),
        ("lorra", NotFound, "adapter"),
        ("lora:9", NotFound, "version"),
        ("lora@prd", NotFound, "alias"),
        ("shaps/lora", NotFound, "task"),
        ("best", NotFound, "adapter"),
    ],
)
def test_what_is_not_one_adapter_is_refused(
    parts: Parts, call: str, adapter: str, error: type[CorollaError], field: str
) -> None:
    refused(error, field, getattr(parts.admin, call), adapter, "shapes")
    assert parts.cache.names() == []


@pytest.mark.parametrize("call", ["load", "unload", "pin", "unpin"])
def test_a_task_that_is_missing_or_wrong_is_refused(admin: Admin, call: str) -> None:
    assert "colours, reordered, shapes" in refused(InvalidInput, "task", getattr(admin, call), "lora:1")
    refused(InvalidInput, "task", getattr(admin, call), "lora", "no task")
    assert "did you mean shapes?" in refused(NotFound, "task", getattr(admin, call), "lora", "shaps")


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
