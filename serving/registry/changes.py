"""What names have come to mean since the last look: one line of the log for each change, and who made it.

Whoever changes a name records it in the store's history. A change without a record, of a file that was edited
by hand or by another program, is recorded here as noticed, once for all servers over the store.
"""

import hashlib
import logging
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from model_store.collections.history import record_name
from model_store.format import keys
from model_store.format.records import Audit
from model_store.store import Store
from petl_vit.errors import CorollaError
from serving.registry.catalog import Catalog, Change, Move, Refreshed, meaning

_log = logging.getLogger(__name__)

GRACE_S = 60.0
"""How long after a change its record may appear."""
_LISTED = 8
_SHORT = 12  # digits of a digest
_WITH_HISTORY = (keys.ALIASES, keys.ROUTES)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Changes:
    """Says and records what has changed. Used by one thread at a time; blocks.

    Args:
        store: Where histories are; not a snapshot.
        clock: Monotonic seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._unrecorded: dict[str, tuple[float, Change]] = {}

    def say(self, refreshed: Refreshed) -> None:
        """One line for each name that changed, with the named routes that it moved."""
        unsaid = {move.name: move for move in refreshed.moves}
        for change in refreshed.changes:
            before, by = self._recorded(change)
            if (move := unsaid.pop(change.name, None)) is not None:
                line = f"{_moved(move, deleted=not change.after)}{by}"
            else:
                line = f"{_titled(change)}: {before} -> {_short(change)}{by}"
            followers = [move for move in unsaid.values() if change.name in move.aliases]
            for move in followers:
                del unsaid[move.name]
            _log.info("%s", "; moves ".join([line, *map(_moved, followers)]))
        for move in unsaid.values():
            _log.info("%s", _moved(move))
        if refreshed.left_out:
            _log.info("%d further names have changed", refreshed.left_out)

    def _recorded(self, change: Change) -> tuple[str, str]:
        """What a name meant before a change, and who made it, as far as its history says."""
        if change.kind not in _WITH_HISTORY:
            return change.before[:_SHORT] or "nothing", ""
        record = self._last(change.key)
        if record is not None and _tells(record, change):
            self._unrecorded.pop(change.key, None)
            return change.before or record.before or "nothing", f", by {record.by}"
        self._unrecorded[change.key] = (self._clock(), change)
        return change.before or (record.after if record is not None else "") or "unknown", ""

    def record(self) -> None:
        """Records the changes that nobody else has recorded by now."""
        due = self._clock() - GRACE_S
        for key, (seen, change) in list(self._unrecorded.items()):
            if seen <= due:
                del self._unrecorded[key]
                self._record(key, change)

    def _record(self, key: str, change: Change) -> None:
        last = self._last(key)
        if (last is not None and _tells(last, change)) or not self._lasts(key, change):
            return
        before = change.before if last is None else last.after
        if last is None and before == change.after:
            return
        record = Audit(
            name=change.name,
            before=before,
            after=change.after,
            before_versions=() if last is None else last.after_versions,
            before_temperature=None if last is None else last.after_temperature,
            after_temperature=change.temperature,
            at=datetime.now(UTC),
            by="unknown",
            note=f"noticed by a server on {socket.gethostname()}",
        )
        # Of servers that notice the same, all name the record alike, and the first writes it.
        after = hashlib.sha256(f"{change.after} {change.temperature}".encode()).hexdigest()[:8]
        at = (_NEVER if last is None else last.at) + timedelta(microseconds=1)
        self._store.history.add(key, record, file=record_name(at, after))

    def _lasts(self, key: str, change: Change) -> bool:
        """Whether a name still means what a change led to."""
        try:
            return meaning(key, self._store.place.read(key)) == change.after
        except CorollaError:
            return False

    def _last(self, key: str) -> Audit | None:
        try:
            return next(iter(self._store.history.of(key, 1)), None)
        except CorollaError:
            return None


def say_notes(catalog: Catalog) -> None:
    """What to know of the named routes when a server starts.

    One line for all that training moves, and one for each whose temperature is not the stored one.
    """
    named_routes = catalog.named_routes()
    following = [f"{route.task}/{route.name}" for route, _ in named_routes if route.follows]
    if following:
        more = f" and {len(following) - _LISTED} more" if len(following) > _LISTED else ""
        _log.info(
            "training moves the routes %s%s, which follow `latest`; `corolla routes put` pins a route",
            ", ".join(following[:_LISTED]),
            more,
        )
    for _, plan in named_routes:
        if plan.note:
            _log.warning("route %s: %s", plan.named, plan.note)


def _tells(record: Audit, change: Change) -> bool:
    """Whether a record is of what a change led to."""
    return (record.after, record.after_temperature) == (change.after, change.temperature)


def _titled(change: Change) -> str:
    return f"task {change.name}" if change.kind == "tasks" else change.name


def _short(change: Change) -> str:
    return (change.after if change.kind in _WITH_HISTORY else change.after[:_SHORT]) or "nothing"


def _moved(move: Move, *, deleted: bool = False) -> str:
    lost = "nothing" if deleted else "cannot be answered"
    after = lost if move.after is None else str(move.after)
    note = "" if move.after is None or not move.after.note else f" ({move.after.note})"
    return f"route {move.name}: {move.before or 'nothing'} -> {after}{note}"
