import json
from typing import Any

import pytest

from model_store import deletion
from model_store.format import keys
from model_store.format.reference import Reference
from model_store.resolution.reference import route_of_adapter
from model_store.store import Store
from petl_vit.errors import Corrupt, Unsupported
from tests.model_store.references import reference_of, usable_of
from tests.model_store.world import World


def stored(world: World, value: float = 1.0, *, minute: int = 0, data: str = "d" * 64) -> Reference:
    manifest = world.store.adapters.publish(world.draft(temperature=1.7), world.adapter(value))
    reference = reference_of(route_of_adapter(world.store, manifest), data=data, minute=minute)
    world.store.references.put(reference)
    return reference


def test_a_reference_is_read_back_as_it_was_put(world: World) -> None:
    reference = stored(world)
    assert world.store.references.get(reference.route.digest, reference.data.digest) == reference
    assert world.store.references.get(reference.route.digest, "e" * 64) is None
    assert world.store.references.get("e" * 64, reference.data.digest) is None


def test_the_newest_reference_comes_first_and_measuring_again_replaces_one(world: World) -> None:
    old, new = stored(world, minute=1), stored(world, minute=2, data="e" * 64)
    other = stored(world, 2.0, minute=3)
    assert world.store.references.of_route(old.route.digest) == [new, old]
    assert world.store.references.list() == [other, new, old]
    again = stored(world, minute=4)
    assert world.store.references.of_route(old.route.digest) == [again, new]


def test_a_deleted_adapter_takes_its_references_along(world: World) -> None:
    stays, goes = stored(world, 1.0), stored(world, 2.0)
    deletion.delete(world.store, "digits", "lora", 2)
    assert world.store.references.list() == [stays]
    whole = deletion.task_deletion(world.store, [world.task], with_adapters=True)
    deletion.delete_task(world.store, whole)
    assert world.store.references.list() == []
    assert goes.route.digest != stays.route.digest


def changed(document: dict[str, Any], path: str, value: object) -> None:
    *names, last = path.split(".")
    for name in names:
        document = document[name]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("accuracy", 1.5, "field 'accuracy'"),
        ("accuracy", None, "field 'accuracy'"),
        ("images", 3, "field 'images'"),
        ("member_accuracies", [0.5, 0.5], "field 'member_accuracies': 2 numbers, and 1 are due"),
        ("true", [1, 1, 0], "field 'true': 3 numbers, and 2 are due"),
        ("confusion", [[0, 0, 2]], "field 'confusion': it does not add up"),
        ("confusion", [[0, 0, 1], [2, 0, 1]], "field 'confusion': there is no class 2"),
        ("pairs", [dict.fromkeys(["first", "second", "agreements", "both_correct"], 0)], "field 'pairs"),
        ("confidence.edges", [0.5, 1.0], "field 'confidence.edges'"),
        ("confidence.cumulative", [0.5], "field 'confidence.cumulative'"),
        ("confidence.images", [1] * 10, "field 'confidence.images'"),
        ("confidence.images", [1] * 9, "field 'confidence.images'"),
        ("route.temperature", 1.8, "route.digest: it is not that of the route's members"),
        ("route.members", [], "field 'route.members'"),
        ("data.digest", "e" * 64, "the reference says it is of route"),
        ("unanimous", 3, "field 'unanimous': 3 of 2 images"),
        ("base_overrides", -1, "field 'base_overrides'"),
        ("unheard", 1, "field 'unheard'"),
    ],
)
def test_a_damaged_reference_names_its_file_and_field(
    world: World, path: str, value: object, says: str
) -> None:
    reference = stored(world)
    key = keys.reference(reference.route.digest, reference.data.digest)
    document = json.loads(reference.encode())
    changed(document, path, value)
    world.store.place.swap(key, lambda _: json.dumps(document).encode())
    with pytest.raises(Corrupt) as refused:
        world.store.references.get(reference.route.digest, reference.data.digest)
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"{key}: ")


def test_a_reference_from_before_something_was_counted_is_still_read(world: World) -> None:
    reference = stored(world)
    key = keys.reference(reference.route.digest, reference.data.digest)
    document = json.loads(reference.encode())
    for name in ("unanimous", "base_overrides"):
        del document[name]
    world.store.place.swap(key, lambda _: json.dumps(document).encode())
    older = world.store.references.get(reference.route.digest, reference.data.digest)
    assert older is not None
    assert (older.unanimous, older.base_overrides) == (None, None)
    assert older.rates.keys() == {"error", "unsure", "low_score"}


def test_references_are_listed_with_their_stamps_and_not_read(world: World) -> None:
    reference = stored(world)
    key = keys.reference(reference.route.digest, reference.data.digest)
    world.store.place.swap(key, lambda _: b"damaged")
    world.store.place.create("references/notes.txt", b"x")
    assert list(world.store.references.stamps()) == [(reference.route.digest, reference.data.digest)]


@pytest.mark.parametrize(("plane", "directions"), [("not base64", 0), ("AAAA", 0), ("ADw=", 1), ("AHw=", 0)])
def test_a_damaged_plane_is_refused_by_name(world: World, plane: str, directions: int) -> None:
    """Of one number, 0x3c00 is 1 and 0x7c00 infinite."""
    reference = usable_of(stored(world).route)
    key = keys.reference(reference.route.digest, reference.data.digest)
    document = json.loads(reference.encode())
    for field, value in (("plane_f16", "ADw="), ("directions", 0)):
        changed(document, f"features.{field}", value)
    assert Reference.parse(json.dumps(document).encode(), key).features is not None
    for field, value in (("plane_f16", plane), ("directions", directions)):
        changed(document, f"features.{field}", value)
    with pytest.raises(Corrupt, match=r"features\.plane_f16"):
        Reference.parse(json.dumps(document).encode(), key)


def test_a_newer_format_is_refused_by_name(world: World) -> None:
    reference = stored(world)
    key = keys.reference(reference.route.digest, reference.data.digest)
    newer = reference.encode().replace(b'"format_version":1', b'"format_version":2')
    world.store.place.swap(key, lambda _: newer)
    with pytest.raises(Unsupported, match="format version 2"):
        world.store.references.list()


def test_what_is_not_a_reference_is_ignored(world: World) -> None:
    world.store.place.create("references/notes.txt", b"x")
    world.store.place.create(f"references/{'a' * 64}/x.json", b"x")
    assert world.store.references.list() == []


def test_a_snapshot_reads_a_reference_that_was_measured_again(world: World) -> None:
    reference = stored(world, minute=1)
    seen = Store(world.store.snapshot())
    assert seen.references.of_route(reference.route.digest) == [reference]
    again = stored(world, minute=2)
    assert seen.references.of_route(reference.route.digest) == [again]
