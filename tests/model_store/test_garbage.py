"""Collecting garbage: what goes, what stays, and what a writer at the same moment is left with."""

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_store import deletion
from model_store.collections import condemned
from model_store.format import keys
from model_store.format.records import Alias
from model_store.garbage import Collection, collect
from model_store.leftovers import Kind, listing
from model_store.place.objects import Change, Objects
from model_store.store import Store
from model_store.verification import verify
from petl_vit.errors import Conflict
from tests.model_store.references import usable_reference
from tests.model_store.world import World

NOW = timedelta(0)


def litter(world: World) -> None:
    """One leftover of every kind."""
    store, place = world.store, world.store.place
    for value in (1.0, 2.0):
        store.adapters.publish(world.draft(), world.adapter(value))
    place.create(keys.adapter("digits", "lora", 3, "adapter.safetensors"), b"half")
    place.create(keys.adapter("digits", "lora", 2, "deleted.json"), b"{}")
    place.create(keys.backbone("b" * 64, "backbone.safetensors"), b"half")
    place.create(keys.task("cats", "c" * 64, "base_head.safetensors"), b"half")
    store.images.put("d" * 64, ["0" * 16])
    store.references.put(usable_reference("gone"))
    place.create(keys.adapter("digits", "gone", 1, "deleted.json"), b"{}")
    place.create(keys.alias("digits", "gone", "latest"), Alias(version=1).encode())
    store.adapters.publish(world.draft("cut"), world.adapter(5.0))
    place.delete(keys.alias("digits", "cut", "latest"))
    store.adapters.publish(world.draft("late"), world.adapter(6.0))
    place.create(keys.adapter("digits", "late", 2, "deleted.json"), b"{}")
    place.swap(keys.alias("digits", "late", "latest"), lambda _: Alias(version=2).encode())
    for kind in ("images", "references"):
        age(*(path for path in (world.folder / kind).rglob("*") if path.is_file()))


def age(*paths: Path) -> None:
    """Makes files two hours old."""
    ago = datetime.now(UTC).timestamp() - 7200
    for path in paths:
        os.utime(path, (ago, ago))


def kinds(collection: Collection) -> set[Kind]:
    return {leftover.kind for leftover in collection.removed}


def test_everything_that_nothing_needs_goes_and_the_store_is_whole(world: World) -> None:
    litter(world)
    before = listing(world.store.place)
    steps: list[tuple[int, int]] = []
    collection = collect(world.store, NOW, advance=lambda done, total: steps.append((done, total)))
    assert kinds(collection) == set(Kind)
    assert steps[-1] == (len(collection.removed),) * 2
    after = verify(world.store)
    assert (after.problems, after.leftovers) == ([], [])
    gone = before.keys() - listing(world.store.place).keys()
    assert collection.freed == sum(before[key].size for key in gone)
    assert world.store.adapters.aliases("digits", "lora") == {"latest": 1}
    assert world.store.adapters.aliases("digits", "cut") == {"latest": 1}
    assert world.store.adapters.aliases("digits", "late") == {"latest": 1}
    assert world.store.adapters.publish(world.draft(), world.adapter(3.0)).version == 4
    assert not collect(world.store, NOW).removed


def test_signatures_that_a_killed_deletion_left_go_and_those_of_versions_stay(world: World) -> None:
    for value in (1.0, 2.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    world.store.adapters.remove("digits", "lora", 2)
    kept, left = (keys.signature("digits", "lora", version, "e" * 64) for version in (1, 2))
    for key in (kept, left):
        world.store.place.create(key, b"{}")
    collection = collect(world.store, NOW)
    assert [leftover.place for leftover in collection.removed] == [left]
    assert collection.freed == 2
    assert (world.store.place.exists(kept), world.store.place.exists(left)) == (True, False)


def test_a_dry_run_says_the_same_and_touches_nothing(world: World) -> None:
    litter(world)

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in world.folder.rglob("*")}

    before = files()
    dry = collect(world.store, NOW, dry_run=True)
    assert files() == before
    wet = collect(world.store, NOW)
    assert [leftover.place for leftover in dry.removed] == [leftover.place for leftover in wet.removed]
    assert dry.freed == wet.freed


def test_what_is_younger_than_the_grace_stays(world: World) -> None:
    litter(world)
    collection = collect(world.store, timedelta(hours=3))
    assert not collection.removed
    assert {leftover.kind for leftover in collection.young} == set(Kind)


def test_half_written_files_of_killed_writers_go_from_a_folder(world: World) -> None:
    young, old = world.folder / "tasks" / "a.json#1", world.folder / "tasks" / "b.json#2"
    for path in (young, old, world.folder / "tasks" / "notes#x"):
        path.write_bytes(b"1234")
    ago = datetime.now(UTC).timestamp() - 7200
    os.utime(old, (ago, ago))
    assert collect(world.store, timedelta(hours=1), dry_run=True).drafts == [4]
    assert collect(world.store, timedelta(hours=1)).freed == 4
    assert {path.name for path in world.folder.glob("tasks/*#*")} == {"a.json#1", "notes#x"}


def test_lists_references_and_half_written_files_have_an_hour_whatever_the_grace(world: World) -> None:
    world.store.images.put("d" * 64, ["0" * 16])
    world.store.references.put(usable_reference("gone"))
    draft = world.folder / "tasks" / "a.json#1"
    draft.write_bytes(b"1234")
    collection = collect(world.store, NOW)
    assert (collection.removed, collection.drafts) == ([], [])
    assert {leftover.kind for leftover in collection.young} == {Kind.IMAGES, Kind.REFERENCE}
    assert draft.exists()


def test_lists_and_references_stay_where_a_record_cannot_be_read(world: World) -> None:
    litter(world)
    (world.folder / "adapters/digits/lora/1/manifest.json").write_text("{")
    notes: list[str] = []
    collection = collect(world.store, NOW, note=notes.append)
    assert not {Kind.IMAGES, Kind.REFERENCE} & kinds(collection)
    assert "adapters/digits/lora/1/manifest.json" in notes[0]


class Meanwhile(Objects):
    """A place in which something happens once, just before a file is deleted or a key is created."""

    at: str = ""
    then: Callable[[], object] = staticmethod(lambda: None)

    @classmethod
    def of(cls, world: World, at: str, then: Callable[[], object]) -> Store:
        place = cls.open(str(world.folder))
        place.at, place.then = at, then
        return Store(place)

    def _now(self, what: str) -> None:
        if self.at and what.endswith(self.at):
            self.at = ""
            self.then()

    def create(self, key: str, data: bytes) -> bool:
        self._now(f"create {key}")
        return super().create(key, data)

    def delete(self, key: str) -> None:
        self._now(f"delete {key}")
        super().delete(key)


def test_a_backbone_that_is_imported_after_the_listing_stays(world: World) -> None:
    store, weights = world.store, world.weights(7.0)
    record = store.backbones.put("other", world.backbone.config, weights, "random")
    store.place.delete(keys.backbone(record.digest, "backbone.json"))
    again = lambda: store.backbones.put("other", world.backbone.config, weights, "random")  # noqa: E731
    mark = keys.garbage(keys.backbone(record.digest, "backbone.safetensors"))
    collection = collect(Meanwhile.of(world, f"create {mark}", again), NOW)
    assert [leftover.kind for leftover in collection.needed] == [Kind.BACKBONE]
    assert verify(store).whole


def test_a_backbone_whose_tensors_are_just_being_deleted_is_written_again(world: World) -> None:
    store, weights = world.store, world.weights(7.0)
    record = store.backbones.put("other", world.backbone.config, weights, "random")
    store.place.delete(keys.backbone(record.digest, "backbone.json"))
    importer = threading.Thread(
        target=store.backbones.put, args=("other", world.backbone.config, weights, "random")
    )

    def begin() -> None:
        importer.start()
        while not store.place.exists(keys.backbone(record.digest, "backbone.json")):
            pass  # it has found the tensors, written its record, and waits for the mark to go

    collect(Meanwhile.of(world, "delete " + keys.backbone(record.digest, "backbone.safetensors"), begin), NOW)
    importer.join()
    assert verify(store).whole
    assert store.backbones.load(record).keys() == weights.keys()


def test_a_publisher_whose_claim_was_collected_takes_the_next_number(world: World) -> None:
    store = world.store
    publishing = Meanwhile.of(
        world, "create adapters/digits/lora/1/manifest.json", lambda: collect(store, NOW)
    )
    assert publishing.adapters.publish(world.draft(), world.adapter(1.0)).version == 2
    report = verify(store)
    assert (report.problems, report.leftovers) == ([], [])
    assert (
        store.adapters.load(store.adapters.manifest("digits", "lora", 2)).keys() == world.adapter(1.0).keys()
    )


def test_a_version_that_is_published_after_the_listing_stays(world: World) -> None:
    place = world.store.place
    place.create("adapters/digits/lora/1/adapter.safetensors", b"x")
    publish = lambda: place.create("adapters/digits/lora/1/manifest.json", b"{}")  # noqa: E731
    collecting = Meanwhile.of(world, "create adapters/digits/lora/1/deleted.json", publish)
    collection = collect(collecting, NOW)
    assert [leftover.kind for leftover in collection.needed] == [Kind.VERSION]
    assert sorted(key.rpartition("/")[2] for key in place.keys("adapters/digits/lora/1")) == [
        "adapter.safetensors",
        "manifest.json",
    ]


def test_a_collector_leaves_a_version_to_the_collector_that_has_begun_to_bury_it(world: World) -> None:
    place = world.store.place
    place.create("adapters/digits/lora/1/adapter.safetensors", b"x")
    tombstone = "adapters/digits/lora/1/deleted.json"
    collecting = Meanwhile.of(world, f"create {tombstone}", lambda: place.create(tombstone, b"theirs"))
    assert [leftover.kind for leftover in collect(collecting, NOW).needed] == [Kind.VERSION]
    assert place.exists("adapters/digits/lora/1/adapter.safetensors")


def test_a_version_whose_tombstone_was_taken_back_after_the_listing_stays(world: World) -> None:
    place = world.store.place
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    tombstone = "adapters/digits/lora/1/deleted.json"
    place.create(tombstone, b"theirs")
    place.create(keys.adapter("digits", "a", 1, "adapter.safetensors"), b"half")
    first = "create adapters/digits/a/1/deleted.json"
    collection = collect(Meanwhile.of(world, first, lambda: place.delete(tombstone)), NOW)
    assert Kind.DELETION in {leftover.kind for leftover in collection.needed}
    assert world.store.adapters.versions("digits", "lora") == [1]
    assert verify(world.store).whole


def test_latest_moves_on_where_its_version_is_deleted_before_it_gets_there(world: World) -> None:
    store = world.store
    store.adapters.publish(world.draft(), world.adapter(1.0))
    meanwhile = lambda: deletion.delete(store, "digits", "lora", 2)  # noqa: E731

    class Between(Objects):
        def swap(self, key: str, change: Change) -> None:
            if key == keys.alias("digits", "lora", "latest") and not self.exists(
                keys.adapter("digits", "lora", 2, "deleted.json")
            ):
                meanwhile()
            super().swap(key, change)

    Store(Between.open(str(world.folder))).adapters.publish(world.draft(), world.adapter(2.0))
    assert store.adapters.aliases("digits", "lora") == {"latest": 1}
    assert verify(store).whole


def test_a_list_of_images_that_is_put_again_is_young(world: World) -> None:
    world.store.images.put("d" * 64, ["0" * 16])
    (path,) = world.folder.glob("images/*")
    ago = datetime.now(UTC).timestamp() - 7200
    os.utime(path, (ago, ago))
    mark = keys.garbage(keys.images("d" * 64))
    again = lambda: world.store.images.put("d" * 64, ["0" * 16])  # noqa: E731
    collection = collect(Meanwhile.of(world, f"create {mark}", again), timedelta(hours=1))
    assert [leftover.kind for leftover in collection.needed] == [Kind.IMAGES]
    assert path.exists()


def test_the_mark_of_a_killed_collector_stops_a_writer_with_a_remedy_and_goes_with_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condemned, "_PATIENCE_S", 0.05)
    mark = keys.garbage(keys.images("d" * 64))
    world.store.place.create(mark, b"")
    with pytest.raises(Conflict, match="run `corolla store gc` and try again"):
        world.store.images.put("d" * 64, ["0" * 16])
    ago = datetime.now(UTC).timestamp() - 7200
    os.utime(world.folder / mark, (ago, ago))
    collect(world.store)
    world.store.images.put("d" * 64, ["0" * 16])
