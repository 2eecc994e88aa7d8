"""The history of a store's names: one small record for each change of an alias or a named route.

Records are created once and never changed, so any number of writers may add some at once. Of each name the
newest are kept.
"""

import getpass
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from model_store.format import keys
from model_store.format.records import Audit, NamedRoute
from model_store.place.objects import Place
from petl_vit.errors import CorollaError

_log = logging.getLogger(__name__)

KEPT = 1000
"""Records of one name; the oldest beyond them are deleted."""
_READERS = 16


class History:
    """The histories in a place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def add_alias(self, key: str, before: int | None, after: int | None, by: str | None = None) -> None:
        """Record that an alias has moved; `key` is the alias's. Nothing where it has not."""
        if before != after:
            _, task, adapter, alias = key.split("/")
            self.add(
                key,
                Audit(
                    name=f"{task}/{adapter}@{alias}",
                    before=str(before or ""),
                    after=str(after or ""),
                    at=datetime.now(UTC),
                    by=by or this_user(),
                ),
            )

    def add_route(
        self, key: str, before: NamedRoute | None, after: NamedRoute | None, by: str | None = None
    ) -> None:
        """Record that a named route has changed; `key` is the route's. Nothing where it has not."""
        if before != after:
            _, task, name = key.split("/")
            note = _thresholds(before, after)
            self.add(key, route_audit(f"{task}/{name}", before, after, by=by, note=note))

    def add(self, key: str, record: Audit, *, file: str | None = None) -> bool:
        """Add a record to the history of what lies under a key; whether it was not there yet.

        The change has happened: that it cannot be recorded is logged, and is not an error.

        Args:
            file: The record's own name, where others may add the same; None is a name of its own.
        """
        name = file or record_name(record.at, secrets.token_hex(4))
        try:
            added = self._place.create(keys.history(key, name), record.encode())
            self._prune(key)
        except CorollaError as error:
            _log.warning("%s has changed, and its history does not say so: %s", record.name, error)
            return False
        return added

    def of(self, key: str, limit: int = KEPT) -> list[Audit]:
        """The newest records of what lies under a key, oldest first; one that is damaged is left out."""
        return self._read(self._keys(key)[-limit:])

    def newest(self, kind: str, task: str | None = None, limit: int = KEPT) -> list[Audit]:
        """The newest records of all aliases or routes, of a task or of all; oldest first."""
        listed = self._keys(keys.below(kind, task))
        newest = sorted(listed, key=lambda key: key.rpartition("/")[2])[-limit:]
        return self._read(newest)

    def _read(self, listed: Sequence[str]) -> list[Audit]:
        with ThreadPoolExecutor(_READERS) as readers:
            return in_order(record for record in readers.map(self._record, listed) if record is not None)

    def _record(self, key: str) -> Audit | None:
        with suppress(CorollaError):
            data = self._place.read(key)
            return None if data is None else Audit.parse(data, key)
        return None

    def _keys(self, prefix: str) -> list[str]:
        return keys.history_in(self._place.keys(f"{keys.HISTORY}/{prefix}"))

    def _prune(self, key: str) -> None:
        for old in self._keys(key)[:-KEPT]:
            with suppress(CorollaError):  # somebody else deletes it too
                self._place.delete(old)


def route_audit(
    name: str, before: NamedRoute | None, after: NamedRoute | None, *, by: str | None, note: str = ""
) -> Audit:
    """The record of a named route that has just changed."""

    def versions(route: NamedRoute | None) -> tuple[str, ...]:
        return () if route is None else tuple(version.adapter for version in route.versions)

    return Audit(
        name=name,
        before="" if before is None else before.route,
        after="" if after is None else after.route,
        before_versions=versions(before),
        after_versions=versions(after),
        before_temperature=None if before is None else before.temperature,
        after_temperature=None if after is None else after.temperature,
        at=datetime.now(UTC),
        by=by or this_user(),
        note=note,
    )


def _thresholds(before: NamedRoute | None, after: NamedRoute | None) -> str:
    """What has become of a cascade's thresholds, where they have changed."""
    old, new = (None if route is None else route.cascade for route in (before, after))
    if old == new or after is None:
        return ""
    return "thresholds are gone" if new is None else f"thresholds learnt: {new.asks}"


def in_order(records: Iterable[Audit]) -> list[Audit]:
    """Oldest first."""
    return sorted(records, key=lambda record: record.at)


def this_user() -> str:
    """Who runs this process, as `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def record_name(at: datetime, identity: str) -> str:
    """The name of a record's file; `identity` is hexadecimal, and tells apart those of one moment."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%S.%f}Z-{identity}.json"
