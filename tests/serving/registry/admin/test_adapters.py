"""Administration over a real store, with an adapter cache that only remembers."""

import time

import pytest

from model_store.format.records import Draft
from petl_vit.errors import Conflict, CorollaError, InvalidInput, NotFound, Unsupported
from serving.registry.admin import Admin
from tests.serving.registry.admin.parts import LONG, Parts, refused, states
from tests.serving.world import CONFIG, METHODS, SHAPES, World, backbone_tensors


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
