"""What a store's names mean at one moment, kept in memory: a server resolves against it, not the store.

Listings say which aliases, routes and tasks there are; a file is read when it is first needed, and kept.
`later` takes the listings again, reads again what was kept and has changed, and reads nothing else. What
a snapshot has answered once it always answers.
"""

import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

from model_store.place.objects import Change, Place, Stamp

NAMES = ("aliases", "routes", "tasks")
"""What is listed at every look; absent from the listing, it does not exist."""
VERSIONS = "adapters"
VERSIONS_EVERY_S = 30.0
"""Versions only come and go; a new one is seen through its alias, so they are listed less often."""

# A file system's clock ticks in milliseconds and inodes are used again: two changes within one tick may
# leave the same tag, so the tag of what is this young proves nothing.
_YOUNG = timedelta(seconds=2)

_Stamps = dict[str, Stamp | None]  # None: too young to tell


class Snapshot:
    """A place whose names stand still. Threads may share it.

    Args:
        place: Where everything else is read, and everything is written.
    """

    def __init__(
        self,
        place: Place,
        *,
        names: _Stamps,
        versions: _Stamps,
        versions_at: float,
        kept: dict[str, bytes],
        clock: Callable[[], float],
    ) -> None:
        self._place = place
        self._names, self._versions, self._versions_at = names, versions, versions_at
        self._keys = sorted(names)
        self._kept = kept
        self._clock = clock

    @classmethod
    def take(cls, place: Place, clock: Callable[[], float] = time.monotonic) -> "Snapshot":
        """The names as they are now; `clock` is monotonic seconds."""
        now, names, versions = clock(), _listed(place, NAMES), _listed(place, (VERSIONS,))
        return cls(place, names=names, versions=versions, versions_at=now, kept={}, clock=clock)

    def later(self) -> "Snapshot | None":
        """The names as they are now; None where they are what they were."""
        names, versions, versions_at = _listed(self._place, NAMES), self._versions, self._versions_at
        suspects = _differing(self._names, names)
        now = self._clock()
        if now - versions_at >= VERSIONS_EVERY_S:
            versions, versions_at = _listed(self._place, (VERSIONS,)), now
            suspects |= _differing(self._versions, versions)
        before = dict(self._kept)
        again = {key: self._place.read(key) for key in suspects & before.keys()}
        if all(key in before and again[key] == before[key] for key in suspects):
            # Young tags that proved to be no change.
            self._names, self._versions, self._versions_at = names, versions, versions_at
            return None
        kept = {key: data for key, data in (before | again).items() if data is not None}
        return Snapshot(
            self._place,
            names=names,
            versions=versions,
            versions_at=versions_at,
            kept=kept,
            clock=self._clock,
        )

    def changed(self, old: "Snapshot") -> list[str]:
        """The keys that are new, gone or different since an older snapshot, sorted.

        What is too young to tell counts where the older snapshot had read it and it reads otherwise now.
        """
        ours, theirs = self._versions | self._names, old._versions | old._names
        return sorted(key for key in _differing(theirs, ours) if self._is_other(old, key, ours, theirs))

    def _is_other(self, old: "Snapshot", key: str, ours: _Stamps, theirs: _Stamps) -> bool:
        if key not in ours or key not in theirs:
            return True
        if key in old._kept:
            return self.read(key) != old._kept[key]
        return ours[key] is not None and theirs[key] is not None

    # A store's place

    def read(self, key: str) -> bytes | None:
        """As `Objects.read`; a record is read once."""
        if key in self._kept:
            return self._kept[key]
        if not _is_record(key):
            return self._place.read(key)
        if key.partition("/")[0] in NAMES and key not in self._names:
            return None
        data = self._place.read(key)
        if data is not None:
            self._kept[key] = data
        return data

    def known(self, key: str) -> bytes | None:
        """A record that was read before; None where it was not, or is not there."""
        return self._kept.get(key)

    def keys(self, prefix: str) -> list[str]:
        """As `Objects.keys`."""
        if prefix.partition("/")[0] not in NAMES:
            return self._place.keys(prefix)
        return self._keys[bisect_left(self._keys, f"{prefix}/") : bisect_left(self._keys, f"{prefix}0")]

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        return self._place.stamps(prefix)

    def create(self, key: str, data: bytes) -> bool:
        return self._place.create(key, data)

    def swap(self, key: str, change: Change) -> None:
        self._place.swap(key, change)

    def delete(self, key: str) -> None:
        self._place.delete(key)

    def exclusive(self) -> AbstractContextManager[None]:
        return self._place.exclusive()


def _listed(place: Place, prefixes: tuple[str, ...]) -> _Stamps:
    found: _Stamps = {}
    for prefix in prefixes:
        now = datetime.now(UTC)
        for key, stamp in place.stamps(prefix).items():
            if _is_record(key):
                found[key] = stamp if now - stamp.modified > _YOUNG else None
    return found


def _is_record(key: str) -> bool:
    """Whether a key is a small file of names: an alias, a route, a task's or a version's JSON."""
    return key.startswith(("aliases/", "routes/")) or key.endswith(".json")


def _differing(old: _Stamps, new: _Stamps) -> set[str]:
    """The keys whose objects may have changed."""
    return {key for key in old.keys() | new.keys() if old.get(key) is None or old.get(key) != new.get(key)}
