"""Copying a store: whole, with its numbers and names; what is missing; and what the target keeps."""

import os
from pathlib import Path

import pytest

from model_store import deletion
from model_store.copying import copy
from model_store.format import keys
from model_store.format.records import NamedRoute
from model_store.format.signature import SigningKey, create_key, name_of
from model_store.format.trust import Trusted
from model_store.leftovers import listing
from model_store.place.objects import Objects
from model_store.store import Store
from model_store.verification import verify
from petl_vit.errors import Corrupt, InvalidInput
from tests.model_store.references import usable_reference
from tests.model_store.world import World


@pytest.fixture
def full(world: World) -> World:
    store = world.store
    for value in (1.0, 2.0, 3.0):
        store.adapters.publish(world.draft(), world.adapter(value))
    deletion.delete(store, "digits", "lora", 2)
    store.adapters.set_alias("digits", "lora", "prod", 1)
    store.routes.put(NamedRoute(task="digits", name="live", route="lora:1"))
    store.images.put("d" * 64, ["0" * 16])
    store.references.put(usable_reference("gone"))
    return world


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "target"))


def contents(store: Store) -> dict[str, bytes | None]:
    return {key: store.place.read(key) for key in listing(store.place)}


def test_a_copy_is_the_same_file_by_file_and_whole(full: World, target: Store) -> None:
    steps: list[tuple[int, int]] = []
    copied = copy(full.store, target, advance=lambda done, total: steps.append((done, total)))
    assert contents(target) == contents(full.store)
    assert verify(target).whole
    assert steps[-1] == (len(copied.places),) * 2
    assert copied.size == sum(stamp.size for stamp in listing(target.place).values())
    again = copy(full.store, target)
    assert (again.places, again.size, again.differences, again.present) == ([], 0, [], len(copied.places))


def test_a_dry_run_says_what_would_be_copied_and_writes_nothing(full: World, target: Store) -> None:
    dry = copy(full.store, target, dry_run=True)
    assert listing(target.place) == {}
    assert copy(full.store, target).places == dry.places


def test_only_what_is_missing_is_copied_and_latest_moves_on(full: World, target: Store) -> None:
    copy(full.store, target)
    full.store.adapters.publish(full.draft(), full.adapter(4.0))
    copied = copy(full.store, target)
    assert "adapters/digits/lora/4/manifest.json" in copied.places
    assert not any("backbones/" in place or "/1/" in place for place in copied.places)
    assert target.adapters.aliases("digits", "lora") == {"latest": 4, "prod": 1}
    assert copied.differences == []


class Dying(Objects):
    """A place that takes so many writes, and no more."""

    left: int

    def create(self, key: str, data: bytes) -> bool:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().create(key, data)


def test_a_copy_that_is_killed_at_any_write_leaves_a_whole_store_and_goes_on(
    full: World, tmp_path: Path
) -> None:
    writes = 1
    while True:
        folder = tmp_path / f"target{writes}"
        dying = Dying.open(str(folder))
        dying.left = writes
        try:
            copy(full.store, Store(dying))
        except KeyboardInterrupt:
            assert verify(Store.open(str(folder))).whole
        else:
            break
        copy(full.store, Store.open(str(folder)))
        assert contents(Store.open(str(folder))) == contents(full.store)
        writes += 3
    assert writes > 10


def test_what_means_something_else_in_the_target_stays_and_is_reported(full: World, target: Store) -> None:
    copy(full.store, target)
    target.adapters.set_alias("digits", "lora", "prod", 3)
    target.routes.put(NamedRoute(task="digits", name="live", route="lora:3"))
    full.store.adapters.publish(full.draft(), full.adapter(4.0))
    target.adapters.publish(full.draft(), full.adapter(5.0))
    copied = copy(full.store, target)
    assert [difference.place for difference in copied.differences] == [
        "adapters/digits/lora/4/manifest.json",
        "aliases/digits/lora/prod",
        "routes/digits/live",
    ]
    assert all(difference.remedy for difference in copied.differences)
    assert target.adapters.version_of("digits", "lora", "prod") == 3
    assert verify(target).whole


def test_a_number_that_a_publisher_in_the_target_has_begun_is_left_to_it(full: World, target: Store) -> None:
    target.place.create(keys.adapter("digits", "lora", 1, "adapter.safetensors"), b"begun")
    copied = copy(full.store, target)
    assert [(difference.place, difference.problem) for difference in copied.differences] == [
        (
            "adapters/digits/lora/1/manifest.json",
            "the target has begun or deleted another version of this number",
        ),
        ("aliases/digits/lora/prod", "digits/lora:1 is not in the target, or is another there"),
        ("routes/digits/live", "digits/lora:1 is not in the target, or is another there"),
    ]
    assert target.adapters.versions("digits", "lora") == [3]
    assert verify(target).whole


def test_what_was_deleted_in_the_target_stays_deleted(full: World, target: Store) -> None:
    copy(full.store, target)
    deletion.delete(target, "digits", "lora", 3)
    assert "adapters/digits/lora/3/manifest.json" not in copy(full.store, target).places
    assert target.adapters.versions("digits", "lora") == [1]
    assert target.adapters.version_of("digits", "lora", "latest") == 1


def test_a_version_that_a_collector_buried_half_copied_is_reported(full: World, target: Store) -> None:
    target.place.create(keys.adapter("digits", "lora", 3, "adapter.safetensors"), b"half")
    assert target.adapters.bury("digits", "lora", 3)
    for dry_run in (True, False):
        copied = copy(full.store, target, dry_run=dry_run)
        lost = copied.differences[0]
        assert lost.place == "adapters/digits/lora/3/manifest.json"
        assert lost.problem == "the target never had it, and has given up its number"
        assert lost.place not in copied.places
    assert verify(target).whole


def test_damaged_tensors_without_a_record_are_replaced(full: World, target: Store) -> None:
    head = keys.task("digits", full.task.digest, "base_head.safetensors")
    for key in (keys.backbone(full.backbone.digest, "backbone.safetensors"), head):
        target.place.create(key, b"")
    copy(full.store, target)
    assert verify(target).whole


def test_tensors_that_the_target_has_lost_are_copied_again(full: World, target: Store) -> None:
    copy(full.store, target)
    lost = [key for key in listing(target.place) if key.endswith(".safetensors")]
    for key in lost:
        target.place.delete(key)
    copied = copy(full.store, target)
    assert len(copied.places) == len(lost) == 4
    assert copied.size == sum(listing(target.place)[key].size for key in lost)
    assert verify(target).whole


def test_latest_does_not_move_to_another_adapter_of_the_same_number(full: World, target: Store) -> None:
    copy(full.store, target)
    full.store.adapters.publish(full.draft(), full.adapter(4.0))
    target.adapters.publish(full.draft(), full.adapter(5.0), latest=False)
    copy(full.store, target)
    assert target.adapters.version_of("digits", "lora", "latest") == 3


def test_lists_and_references_that_are_there_are_made_young_before_what_needs_them_is_copied(
    full: World, target: Store
) -> None:
    copy(full.store, target)
    paths = [Path(str(target)) / key for kind in ("images", "references") for key in target.place.keys(kind)]
    for path in paths:
        os.utime(path, (1, 1))
    copy(full.store, target)
    assert [path.stat().st_mtime for path in paths] == [1, 1]
    full.store.adapters.publish(full.draft(), full.adapter(4.0))
    copied = copy(full.store, target)
    assert all(path.stat().st_mtime > 1 for path in paths)
    assert not any(place.startswith(("images", "references")) for place in copied.places)


def test_the_history_of_a_name_that_the_target_has_is_not_mixed_with_the_sources(
    full: World, target: Store
) -> None:
    copy(full.store, target)
    full.store.adapters.set_alias("digits", "lora", "prod", 3)
    before = target.history.newest("aliases")
    assert not any("history/" in place for place in copy(full.store, target).places)
    assert target.history.newest("aliases") == before


def test_a_signature_is_copied_only_to_the_version_that_it_signs(full: World, target: Store) -> None:
    copy(full.store, target)
    deletion.delete(target, "digits", "lora", 3)
    signature = keys.signature("digits", "lora", 3, "e" * 64)
    full.store.place.create(signature, b"{}")
    other = keys.signature("digits", "lora", 1, "e" * 64)
    full.store.place.create(other, b"{}")
    copy(full.store, target)
    assert (target.place.exists(other), target.place.exists(signature)) == (True, False)


def test_what_is_signed_in_the_source_is_trusted_in_the_target(
    full: World, target: Store, tmp_path: Path
) -> None:
    create_key(tmp_path / "release.key")
    key = SigningKey.read(tmp_path / "release.key")
    full.store.adapters.sign(full.store.adapters.manifest("digits", "lora", 1), key)
    copy(full.store, target)
    full.store.adapters.sign(full.store.adapters.manifest("digits", "lora", 3), key)
    again = copy(full.store, target)
    assert again.places == [keys.signature("digits", "lora", 3, name_of(key.public))]
    report = verify(target, trusted=Trusted.parse((tmp_path / "release.key.pub").read_text(), "keys"))
    assert report.whole, report.problems
    assert report.checked["signatures"] == 2


def test_damage_does_not_spread(full: World, target: Store) -> None:
    path = full.folder / "adapters/digits/lora/3/adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Corrupt, match=r"adapters/digits/lora/3/adapter.safetensors: digest"):
        copy(full.store, target)
    assert verify(target).whole
    assert not target.place.exists("adapters/digits/lora/3/manifest.json")


def test_a_store_is_not_copied_into_itself(full: World) -> None:
    with pytest.raises(InvalidInput, match="is the source too"):
        copy(full.store, Store.open(str(full.folder)))
