"""Removing leftovers, while others write: what is younger than a grace stays, and what turns out needed.

Deletions that were cut off are completed, and publications that were cut off before `latest` moved, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from model_store.collections.condemned import condemned
from model_store.format import keys
from model_store.leftovers import Kind, Leftover, leftovers, listing
from model_store.store import Store
from petl_vit.errors import Corrupt, NotFound

GRACE = timedelta(days=1)
"""Longer than any write takes from its first file to its last."""
SHORTEST = timedelta(hours=1)
"""The grace of what has no other guard: lists of images, references, half-written files."""
_STALE_MARK = timedelta(hours=1)

_RECORDS = {Kind.BACKBONE: "backbone.json", Kind.TASK: "task.json"}


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What was collected, or would be.

    Attributes:
        removed: What went, by place.
        young: What is younger than the grace, and stays.
        needed: What turned out to be needed or written again, and stays.
        drafts: Half-written files that killed writers left in a local folder, and that went; their bytes.
    """

    removed: Sequence[Leftover]
    young: Sequence[Leftover]
    needed: Sequence[Leftover] = ()
    drafts: Sequence[int] = ()

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(leftover.size for leftover in self.removed) + sum(self.drafts)


def collect(
    store: Store,
    grace: timedelta = GRACE,
    *,
    dry_run: bool = False,
    note: Callable[[str], object] = lambda text: None,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Collection:
    """Remove the leftovers of a store that are older than a grace. Killed at any point, it may be run again.

    Args:
        grace: What was written less long ago stays, as its writer may still be at work; of `SHORTEST`'s
            kinds what is younger than that stays, too.
        dry_run: Whether nothing is removed.
        note: Told what could not be decided.
        advance: Called with the number of leftovers that are decided, and of all.
    """
    now = datetime.now(UTC)
    found = leftovers(store, listing(store.place), note)
    young = [leftover for leftover in found if now - leftover.modified < _grace(leftover.kind, grace)]
    old = [leftover for leftover in found if now - leftover.modified >= _grace(leftover.kind, grace)]
    drafts = partial(store.place.drafts, max(grace, SHORTEST))
    if dry_run:
        return Collection(removed=old, young=young, drafts=drafts(remove=False))
    _remove_stale_marks(store, now)
    removed, needed = list[Leftover](), list[Leftover]()
    for done, leftover in enumerate(old, start=1):
        try:
            gone = _remove(store, leftover, grace)
        except (Corrupt, NotFound) as error:
            note(f"{leftover.place} stays: {error}")
            gone = False
        (removed if gone else needed).append(leftover)
        advance(done, len(old))
    return Collection(removed=removed, young=young, needed=needed, drafts=drafts(remove=True))


def _grace(kind: Kind, grace: timedelta) -> timedelta:
    return max(grace, SHORTEST) if kind in (Kind.IMAGES, Kind.REFERENCE) else grace


def _remove(store: Store, leftover: Leftover, grace: timedelta) -> bool:
    match leftover.kind:
        case Kind.BACKBONE | Kind.TASK:
            return _remove_tensors(store, leftover)
        case Kind.VERSION:
            return store.adapters.bury(*keys.version_of(leftover.place))
        case Kind.DELETION:
            version = keys.version_of(leftover.place)
            if not store.place.exists(keys.adapter(*version, "deleted.json")):
                return False  # another collector's, who took it back as the version was published
            store.adapters.remove(*version)
            return True
        case Kind.LATEST | Kind.DEAD_LATEST | Kind.NO_LATEST:
            _, task, name, _ = leftover.place.split("/")
            return store.adapters.mend_latest(task, name)
        case Kind.IMAGES | Kind.REFERENCE:
            return _remove_old(store, leftover.place, _grace(leftover.kind, grace))


def _remove_tensors(store: Store, leftover: Leftover) -> bool:
    """Removes tensors unless their record is there by now."""
    record = f"{leftover.place.rpartition('/')[0]}/{_RECORDS[leftover.kind]}"
    with condemned(store.place, leftover.place) as mark:
        if mark is None or store.place.exists(record):
            return False
        store.place.delete(leftover.place)
    return True


def _remove_old(store: Store, key: str, grace: timedelta) -> bool:
    """Removes a file unless it was written again: whoever needs it does that first."""
    with condemned(store.place, key) as mark:
        stamp = store.place.stamp(key)
        if mark is None or stamp is None or mark.modified - stamp.modified < grace:
            return False
        store.place.delete(key)
    return True


def _remove_stale_marks(store: Store, now: datetime) -> None:
    """Removes the marks of collectors that were killed."""
    for key, stamp in store.place.stamps(keys.GARBAGE).items():
        if now - stamp.modified > _STALE_MARK:
            store.place.delete(key)
