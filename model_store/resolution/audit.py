"""What the histories of names say together: of a route, also the moves of the aliases that it named.

An alias's move is one record, and is shown in the history of every route that answered by that alias then.
"""

from datetime import UTC, datetime

from model_store.collections.history import KEPT, in_order
from model_store.format import keys
from model_store.format.records import Audit
from model_store.names import LATEST
from model_store.routes.text import parse_adapter, parse_route
from model_store.store import Store
from petl_vit.errors import CorollaError, NotFound

_EVER = datetime.min.replace(tzinfo=UTC)


def history_of(store: Store, name: str | None, *, task: str | None, limit: int = KEPT) -> list[Audit]:
    """The newest changes, oldest first.

    Args:
        name: [TASK/]ROUTE, or [TASK/]ADAPTER@ALIAS; None is every route and alias.
        task: Of a name without one; where there is no name, only changes of that task.

    Raises:
        NotFound: Nothing of that name has ever changed, and there is no such route.
    """
    if name is None:
        routes, aliases = (store.history.newest(kind, task, limit) for kind in (keys.ROUTES, keys.ALIASES))
        return in_order([*routes, *aliases])[-limit:]
    ref = parse_adapter(name)
    home = ref.task or task or ""
    if ref.alias is not None:
        return store.history.of(keys.alias(home, ref.name, ref.alias), limit)
    return _of_route(store, home, ref.name)[-limit:]


def _of_route(store: Store, task: str, name: str) -> list[Audit]:
    records = store.history.of(keys.route(task, name))
    try:
        now = store.routes.get(task, name).route
    except NotFound:
        if not records:
            raise
        now = ""
    except CorollaError:
        now = ""
    moves: dict[str, Audit] = {}
    for text, start, end in _periods(records, now):
        for key in _aliases_in(text, task):
            for record in store.history.of(key):
                if start < record.at < end:
                    moves[f"{record.name} {record.at.isoformat()}"] = record
    return in_order([*records, *moves.values()])


def _periods(records: list[Audit], now: str) -> list[tuple[str, datetime, datetime]]:
    """The texts that a route had, each with the times between which it had it."""
    times = [_EVER, *(record.at for record in records), datetime.max.replace(tzinfo=UTC)]
    texts = [records[0].before if records else now, *(record.after for record in records)]
    return [(text, times[i], times[i + 1]) for i, text in enumerate(texts) if text]


def _aliases_in(text: str, task: str) -> set[str]:
    """The keys of the aliases that a route's text names, `latest` where it names no version."""
    refs = parse_route(text).moving
    return {keys.alias(ref.task or task, ref.name, ref.alias or LATEST) for ref in refs}
