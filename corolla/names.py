"""The names of a store or of a running server: whose aliases and named routes a command reads and changes.

Imports no gRPC; the server's side is imported where a server is named.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import click
from pydantic import JsonValue

from corolla import flags
from corolla.flags import Connection
from corolla.group import MissingExtra
from model_store.format.records import Audit, NamedRoute
from model_store.resolution import named_route as naming
from model_store.resolution.answering import answering
from model_store.resolution.audit import history_of
from model_store.resolution.named_route import Naming
from model_store.resolution.promotion import after_move
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound

_READERS = 16
"""Routes that are resolved at the same time for a list."""


class Names(Protocol):
    """Aliases and named routes, wherever they are. A task of None is the only one there is."""

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None, expected: int | None
    ) -> "Moved":
        """Point an alias of [TASK/]NAME at a version."""

    def routes(self, task: str | None) -> list[dict[str, JsonValue]]:
        """The named routes as documents: the fields of each as stored, and how it answers now.

        `follows` are the adapters that training moves, `answers` the route with versions, `asks` how many of
        its members a cascade asks, `note` what became of its temperature or thresholds, and `problem` why it
        cannot be answered.
        """

    def put_route(
        self,
        name: str,
        text: str,
        *,
        task: str | None,
        temperature: float | None,
        extrapolate: bool,
        follow: bool,
    ) -> Naming:
        """Save a route under a name."""

    def delete_route(self, name: str, *, task: str | None) -> str:
        """Delete a named route; returns its task."""

    def history(self, name: str | None, *, task: str | None, limit: int) -> list[Audit]:
        """The newest changes of a route, of an alias NAME@ALIAS, or of all names; oldest first."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """An alias that was pointed at a version.

    Attributes:
        before: The version it pointed at, if any.
        notes: The named routes that answer differently since.
    """

    task: str
    adapter: str
    before: int | None
    notes: tuple[str, ...] = ()


class StoreNames:
    """The names of a store, changed in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None, expected: int | None
    ) -> Moved:
        task_name, _, name = adapter.rpartition("/")
        task_name = task_name or chosen_task(self._store, task)
        before = self._store.adapters.set_alias(task_name, name, alias, version, expected)
        moved = [] if before == version else after_move(self._store, task_name, name, alias)
        notes = tuple(standing.line for standing in moved)
        return Moved(task=task_name, adapter=name, before=before, notes=notes)

    def routes(self, task: str | None) -> list[dict[str, JsonValue]]:
        with ThreadPoolExecutor(_READERS) as readers:
            return list(readers.map(self._route_document, self._store.routes.names(task)))

    def _route_document(self, place: tuple[str, str]) -> dict[str, JsonValue]:
        """The document of a route; of a damaged one its name and what is wrong."""
        task, name = place
        damaged: dict[str, JsonValue] = {"task": task, "name": name, "route": "", "follows": []}
        try:
            return route_document(self._store, self._store.routes.get(task, name))
        except Corrupt as error:
            return damaged | _UNANSWERED | {"problem": str(error)}

    def put_route(
        self,
        name: str,
        text: str,
        *,
        task: str | None,
        temperature: float | None,
        extrapolate: bool,
        follow: bool,
    ) -> Naming:
        named = naming.check(
            self._store,
            task=chosen_task(self._store, task),
            name=name,
            text=text,
            temperature=temperature,
            extrapolate=extrapolate,
            follow=follow,
        )
        self._store.routes.put(named.route)
        return named

    def delete_route(self, name: str, *, task: str | None) -> str:
        task_name = chosen_task(self._store, task)
        self._store.routes.delete(task_name, name)
        return task_name

    def history(self, name: str | None, *, task: str | None, limit: int) -> list[Audit]:
        task_name = chosen_task(self._store, task) if name and "/" not in name else task
        return history_of(self._store, name, task=task_name, limit=limit)


_UNANSWERED: dict[str, JsonValue] = {
    "answers": "",
    "answers_at_temperature": None,
    "asks": "",
    "note": "",
    "problem": "",
}
"""What a route's document says of its answers, where nothing is known of them."""


def route_document(store: Store, route: NamedRoute) -> dict[str, JsonValue]:
    """The fields of a named route, and how it answers now; see `Names.routes`."""
    document: dict[str, JsonValue] = route.model_dump(mode="json")
    document["follows"] = list(route.follows)
    document |= _UNANSWERED
    try:
        now = answering(store, route)
    except CorollaError as error:
        return document | {"problem": str(error)}
    return document | {
        "answers": str(now.resolved),
        "answers_at_temperature": now.temperature,
        "asks": asks(route, void=now.cascade is None),
        "note": now.note,
    }


def asks(route: NamedRoute, *, void: bool) -> str:
    """How many of its members a cascade asks; empty for any other route."""
    if route.cascade is None:
        return ""
    return f"all {len(route.cascade.order)}: thresholds void" if void else route.cascade.asks


def chosen_task(store: Store, task: str | None) -> str:
    """The task that is named, else the only one of the store.

    Raises:
        NotFound: The store has no task.
        InvalidInput: It has several, and none is named.
    """
    if task is not None:
        return task
    known = sorted({record.spec.name for record in store.tasks.list()})
    if len(known) == 1:
        return known[0]
    if not known:
        raise NotFound("the store has no task yet", field="task", remedy="train one with `corolla train`")
    raise InvalidInput(
        f"the store has {len(known)} tasks", field="task", remedy=f"add one of {', '.join(known)}"
    )


def on_names(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--store`, and `--server` with what belongs to it; it is called with `names`."""

    @flags.store
    @flags.server("Act through this running server, at once, not on a store.")
    @wraps(command)
    def run(url: str | None, connection: Connection | None, **rest: Any) -> Any:
        if connection is not None and flags.typed(click.get_current_context(), "url"):
            remedy = "give either --store or --server"
            raise InvalidInput("a server knows its store", field="store", remedy=remedy)
        with _names(url, connection) as names:
            return command(names=names, **rest)

    return run


def _names(url: str | None, connection: Connection | None) -> AbstractContextManager[Names]:
    if connection is None:
        return nullcontext(StoreNames(Store.open(url)))
    try:
        from corolla.server_names import server_names
    except ModuleNotFoundError as error:
        raise MissingExtra("server", (error.name or "").partition(".")[0], "client") from error
    return server_names(connection)
