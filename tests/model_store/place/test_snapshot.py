"""A snapshot over a counting place: what is read, how often, and what counts as a change."""

from collections import Counter
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest

from model_store.place import snapshot
from model_store.place.objects import Change, Objects, Stamp
from model_store.place.snapshot import VERSIONS_EVERY_S, Snapshot

ALIAS, OTHER, ROUTE = "aliases/t/lora/prod", "aliases/t/lora/latest", "routes/t/best"
MANIFEST, TENSORS = "adapters/t/lora/1/manifest.json", "adapters/t/lora/1/adapter.safetensors"
OLD = datetime.now(UTC) - timedelta(hours=1)


class Place:
    """A place in memory that counts what it is asked, and can be lost."""

    def __init__(self) -> None:
        self.objects = Objects.open("memory:///")
        self.asked: Counter[str] = Counter()
        self.cache = None
        self.lost = False
        self.modified = OLD

    def put(self, key: str, data: bytes) -> None:
        self.objects.swap(key, lambda _: data)

    def read(self, key: str) -> bytes | None:
        self._ask(key)
        return self.objects.read(key)

    def keys(self, prefix: str) -> list[str]:
        self._ask(prefix)
        return self.objects.keys(prefix)

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        self._ask(prefix)
        return {key: Stamp(s.tag, self.modified, s.size) for key, s in self.objects.stamps(prefix).items()}

    def _ask(self, what: str) -> None:
        if self.lost:
            raise OSError("lost")
        self.asked[what] += 1

    def exists(self, key: str) -> bool:
        return self.objects.exists(key)

    def stamp(self, key: str) -> Stamp | None:
        return self.objects.stamp(key)

    def drafts(self, older_than: timedelta, *, remove: bool) -> list[int]:
        return []

    def create(self, key: str, data: bytes) -> bool:
        return self.objects.create(key, data)

    def renew(self, key: str, data: bytes) -> None:
        self.objects.renew(key, data)

    def swap(self, key: str, change: Change) -> None:
        self.objects.swap(key, change)

    def delete(self, key: str) -> None:
        self.objects.delete(key)

    def exclusive(self) -> AbstractContextManager[None]:
        return self.objects.exclusive()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place() -> Place:
    place = Place()
    for key in (ALIAS, OTHER, ROUTE, MANIFEST, TENSORS, "tasks/t/d/base_head.safetensors"):
        place.put(key, b"1")
    return place


@pytest.fixture
def first(place: Place, clock: Clock) -> Snapshot:
    return Snapshot.take(place, clock)


def test_a_record_is_read_once_and_tensors_are_not_kept(place: Place, first: Snapshot) -> None:
    for key in (ALIAS, MANIFEST, TENSORS, "tasks/t/d/base_head.safetensors"):
        assert first.read(key) == first.read(key) == b"1"
    assert place.asked[ALIAS] == place.asked[MANIFEST] == 1
    assert place.asked[TENSORS] == 2


def test_a_name_that_is_not_listed_is_not_asked_for_but_a_version_is(place: Place, first: Snapshot) -> None:
    assert first.read("aliases/t/lora/none") is None
    assert first.read("routes/t/none") is None
    assert not place.asked["aliases/t/lora/none"]
    place.put("adapters/t/lora/2/manifest.json", b"2")
    assert first.read("adapters/t/lora/2/manifest.json") == b"2"


def test_keys_of_names_come_from_the_listing(place: Place, first: Snapshot) -> None:
    place.put("aliases/t/lora-2/prod", b"")
    place.put("aliases/t/lor/prod", b"")
    later = first.later()
    assert later is not None
    assert later.keys("aliases/t/lora") == [OTHER, ALIAS]
    assert first.keys("aliases") == [OTHER, ALIAS]
    assert len(later.keys("aliases")) == 4
    assert first.keys("adapters") == [TENSORS, MANIFEST]


def test_nothing_changed_costs_a_listing_of_the_names_and_no_reads(place: Place, first: Snapshot) -> None:
    first.read(ALIAS)
    place.asked.clear()
    assert first.later() is None
    assert place.asked == Counter(snapshot.NAMES)


def test_a_changed_name_is_read_again_at_once_and_the_old_snapshot_keeps_its_answer(
    place: Place, first: Snapshot
) -> None:
    first.read(ALIAS), first.read(ROUTE)
    place.put(ALIAS, b"2")
    later = first.later()
    place.lost = True

    assert later is not None
    assert (first.read(ALIAS), later.read(ALIAS)) == (b"1", b"2")
    assert later.read(ROUTE) == b"1"
    assert later.changed(first) == [ALIAS]


def test_a_name_that_went_is_gone(place: Place, first: Snapshot) -> None:
    first.read(ROUTE)
    place.delete(ROUTE)
    later = first.later()
    assert later is not None
    assert later.read(ROUTE) is None
    assert later.known(ROUTE) is None
    assert later.changed(first) == [ROUTE]


def test_a_deleted_version_is_noticed_by_the_slower_listing(
    place: Place, first: Snapshot, clock: Clock
) -> None:
    first.read(MANIFEST)
    place.delete(MANIFEST)
    clock.now = VERSIONS_EVERY_S - 1
    assert first.later() is None
    assert first.read(MANIFEST) == b"1"

    clock.now = VERSIONS_EVERY_S
    later = first.later()
    assert later is not None
    assert later.read(MANIFEST) is None


def test_a_young_file_is_compared_by_content_because_its_tag_proves_nothing(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.modified = datetime.now(UTC)
    young = Snapshot.take(place, clock)
    for key in (ALIAS, OTHER, ROUTE):
        young.read(key)
    assert young.later() is None

    stamps = place.objects.stamps
    monkeypatch.setattr(
        place.objects, "stamps", lambda prefix: {k: Stamp("same", OLD, 1) for k in stamps(prefix)}
    )
    assert young.later() is None
    place.put(ALIAS, b"2")
    later = young.later()
    assert later is not None
    assert later.read(ALIAS) == b"2"
    assert later.changed(young) == [ALIAS]


def test_a_name_that_was_never_read_counts_as_changed_with_its_tag(place: Place, first: Snapshot) -> None:
    place.put(ALIAS, b"2")
    later = first.later()
    assert later is not None
    assert later.changed(first) == [ALIAS]
    assert later.read(ALIAS) == b"2"


def test_a_young_name_that_was_never_read_counts_as_changed_with_its_tag(place: Place, clock: Clock) -> None:
    place.modified = datetime.now(UTC)
    young = Snapshot.take(place, clock)
    place.put(ALIAS, b"2")
    later = young.later()
    assert later is not None
    assert later.changed(young) == [ALIAS]


def test_a_place_that_is_lost_changes_nothing(place: Place, first: Snapshot) -> None:
    first.read(ALIAS)
    place.lost = True
    with pytest.raises(OSError, match="lost"):
        first.later()
    assert first.read(ALIAS) == b"1"
    place.lost = False
    assert first.later() is None


def test_what_is_written_goes_to_the_place(place: Place, first: Snapshot) -> None:
    assert first.create("aliases/t/lora/new", b"3")
    with first.exclusive():
        first.swap(ALIAS, lambda data: data + b"2" if data else b"")
        first.delete(OTHER)
    assert first.stamps("aliases").keys() == {"aliases/t/lora/new", ALIAS}
    assert place.objects.read(ALIAS) == b"12"
    assert first.read("aliases/t/lora/new") is None


def test_a_clock_that_jumps_ahead_does_not_make_a_young_tag_trusted(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Snapshot.take(place, clock)  # an hour after all was written, by the wall clock
    first.read(ALIAS)
    place.put(ALIAS, b"2")
    later = first.later()
    assert later is not None
    assert later.read(ALIAS) == b"2"
    seen = place.stamps("aliases")
    monkeypatch.setattr(place, "stamps", lambda prefix: {k: seen[k] for k in seen if k.startswith(prefix)})

    place.put(ALIAS, b"3")  # within one tick: under the same tag
    again = later.later()
    assert again is not None
    assert again.read(ALIAS) == b"3"


def test_a_tag_is_trusted_some_seconds_after_it_was_first_seen_though_the_clock_ran_back(
    place: Place, clock: Clock
) -> None:
    place.modified = datetime.now(UTC) + timedelta(days=1)
    first = Snapshot.take(place, clock)
    for key in (ALIAS, OTHER, ROUTE):
        first.read(key)
    clock.now = 3.0
    assert first.later() is None
    place.asked.clear()
    assert first.later() is None
    assert not place.asked[ALIAS]
