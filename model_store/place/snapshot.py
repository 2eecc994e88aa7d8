"""A store's names at one moment, cached in memory. A server resolves against it, not against the store.

Listings say which aliases, routes and tasks exist. A record is read when it is first needed, and cached.
`later` lists again and reads again only the cached records that have changed. A snapshot never changes its
answers.
"""

import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from model_store.place.cache import Cache
from model_store.place.objects import Change, Place, Stamp

NAMES = ("aliases", "routes", "tasks")
"""Listed by every `later`. What is not in the listing does not exist."""
VERSIONS = "adapters"
VERSIONS_EVERY_S = 30.0
"""Versions are listed less often: they never change, and a new one is reached through its alias."""

# A file system's clock ticks in milliseconds, and inodes are reused. Two changes within one tick may leave
# the same tag, so a tag proves nothing until this long after it was first seen.
_YOUNG_S = 2.0


class _Listed(NamedTuple):
    stamp: Stamp
    young_until: float  # by the snapshot's clock, which no change of the wall clock moves
    young: bool  # when it was listed: its tag proves nothing


_Stamps = dict[str, _Listed]


class Snapshot:
    """A place whose names do not change. Threads may share it.

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
        records: dict[str, bytes],
        clock: Callable[[], float],
    ) -> None:
        self._place = place
        self._names, self._versions, self._versions_at = names, versions, versions_at
        self._keys = sorted(names)
        self._records = records
        self._clock = clock

    @classmethod
    def take(cls, place: Place, clock: Callable[[], float] = time.monotonic) -> "Snapshot":
        """The names as they are now; `clock` is monotonic seconds."""
        now = clock()
        names, versions = _listed(place, NAMES, now), _listed(place, (VERSIONS,), now)
        return cls(place, names=names, versions=versions, versions_at=now, records={}, clock=clock)

    def later(self) -> "Snapshot | None":
        """The names as they are now; None if nothing has changed."""
        now = self._clock()
        names, versions, versions_at = self._listed_names(now), self._versions, self._versions_at
        suspects = _differing(self._names, names)
        if now - versions_at >= VERSIONS_EVERY_S:
            versions, versions_at = _listed(self._place, (VERSIONS,), now, self._versions), now
            suspects |= _differing(self._versions, versions)
        before = dict(self._records)
        again = {key: self._place.read(key) for key in suspects & before.keys()}
        if all(key in before and again[key] == before[key] for key in suspects):
            # The tags were too young to tell, and the records turned out to be the same.
            self._names, self._versions, self._versions_at = names, versions, versions_at
            return None
        records = {key: data for key, data in (before | again).items() if data is not None}
        return Snapshot(
            self._place,
            names=names,
            versions=versions,
            versions_at=versions_at,
            records=records,
            clock=self._clock,
        )

    def _listed_names(self, now: float) -> _Stamps:
        """The names that are listed now, and those that a listing lacks and the place still has.

        A listing may be older than the one before it; an object says of itself whether it is there.
        """
        names = _listed(self._place, NAMES, now, self._names)
        for key in self._names.keys() - names.keys():
            if self._place.exists(key):
                names[key] = self._names[key]._replace(young=True)
        return names

    def changed(self, old: "Snapshot") -> list[str]:
        """The keys that are new, gone or different since an older snapshot, sorted.

        An object that the older snapshot had read counts if its content differs, any other if its tag does.
        """
        new, before = self._versions | self._names, old._versions | old._names
        return sorted(key for key in _differing(before, new) if self._is_other(old, key, new, before))

    def _is_other(self, old: "Snapshot", key: str, new: _Stamps, before: _Stamps) -> bool:
        if key not in new or key not in before:
            return True
        if key in old._records:
            return self.read(key) != old._records[key]
        return new[key].stamp != before[key].stamp

    # A store's place

    @property
    def cache(self) -> Cache | None:
        return self._place.cache

    def read(self, key: str) -> bytes | None:
        """As `Objects.read`; a record is read once."""
        if key in self._records:
            return self._records[key]
        if not _is_record(key):
            return self._place.read(key)
        if key.partition("/")[0] in NAMES and key not in self._names:
            return None
        data = self._place.read(key)
        if data is not None:
            self._records[key] = data
        return data

    def known(self, key: str) -> bytes | None:
        """A record that was read before; None if it was not, or does not exist."""
        return self._records.get(key)

    def keys(self, prefix: str) -> list[str]:
        """As `Objects.keys`."""
        if prefix.partition("/")[0] not in NAMES:
            return self._place.keys(prefix)
        return self._keys[bisect_left(self._keys, f"{prefix}/") : bisect_left(self._keys, f"{prefix}0")]

    def exists(self, key: str) -> bool:
        """Whether there is an object now, even where these names are of an earlier moment."""
        return self._place.exists(key)

    def stamp(self, key: str) -> Stamp | None:
        return self._place.stamp(key)

    def drafts(self, older_than: timedelta, *, remove: bool) -> list[int]:
        return self._place.drafts(older_than, remove=remove)

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        return self._place.stamps(prefix)

    def create(self, key: str, data: bytes) -> bool:
        return self._place.create(key, data)

    def renew(self, key: str, data: bytes) -> None:
        self._place.renew(key, data)

    def swap(self, key: str, change: Change) -> None:
        self._place.swap(key, change)

    def delete(self, key: str) -> None:
        self._place.delete(key)

    def exclusive(self) -> AbstractContextManager[None]:
        return self._place.exclusive()


def _listed(place: Place, prefixes: tuple[str, ...], now: float, before: "_Stamps | None" = None) -> _Stamps:
    """What is listed, beside what was listed before. The wall clock counts only at first."""
    stamps: _Stamps = {}
    for prefix in prefixes:
        at_first = datetime.now(UTC) - timedelta(seconds=_YOUNG_S)
        for key, stamp in place.stamps(prefix).items():
            if not _is_record(key):
                continue
            old = before.get(key) if before is not None else None
            if old is not None and old.stamp == stamp:
                until = old.young_until
            else:
                until = now if before is None and stamp.modified < at_first else now + _YOUNG_S
            stamps[key] = _Listed(stamp, until, young=now < until)
    return stamps


def _is_record(key: str) -> bool:
    """Whether a key is a small file of names: an alias, a route, a task's or a version's JSON."""
    return key.startswith(("aliases/", "routes/")) or (
        key.endswith(".json")
        and not key.startswith("references/")  # which are large, and may be measured again
    )


def _differing(old: _Stamps, new: _Stamps) -> set[str]:
    """The keys whose objects may have changed."""

    def proves(key: str) -> bool:
        return key in new and key in old and old[key].stamp == new[key].stamp and not old[key].young

    return {key for key in old.keys() | new.keys() if not proves(key)}
