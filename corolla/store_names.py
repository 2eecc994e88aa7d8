"""`--store` or `--server`: whose names a command reads and changes, a store's own or a running server's.

The server's side is imported where a server is named.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Protocol

import click
from click.core import ParameterSource
from pydantic import JsonValue

from corolla.lazy_group import MissingExtra
from corolla.reach import Reach, reach_options
from model_store.resolution import named_route as naming
from model_store.resolution.named_route import Naming
from model_store.store import Store
from petl_vit.errors import InvalidInput, NotFound

_OF_SERVER = ("tls_ca", "tls_certificate", "tls_key", "timeout")


class Names(Protocol):
    """Aliases and named routes, wherever they are. A task of None is the only one there is."""

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None, expected: int | None
    ) -> tuple[str, str, int | None]:
        """Points an alias of [TASK/]NAME at a version; returns task, name, and where it pointed before."""

    def routes(self, task: str | None) -> list[dict[str, JsonValue]]:
        """The named routes as documents: what a store keeps of each, and maybe a `problem`."""

    def put_route(
        self, name: str, text: str, *, task: str | None, temperature: float | None, extrapolate: bool
    ) -> Naming:
        """Keeps a route under a name."""

    def delete_route(self, name: str, *, task: str | None) -> str:
        """Forgets a named route; returns its task."""


class StoreNames:
    """The names of a store, changed in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None, expected: int | None
    ) -> tuple[str, str, int | None]:
        home, _, name = adapter.rpartition("/")
        home = home or chosen_task(self._store, task)
        return home, name, self._store.adapters.set_alias(home, name, alias, version, expected)

    def routes(self, task: str | None) -> list[dict[str, JsonValue]]:
        return [route.model_dump(mode="json") for route in self._store.routes.list(task)]

    def put_route(
        self, name: str, text: str, *, task: str | None, temperature: float | None, extrapolate: bool
    ) -> Naming:
        named = naming.check(
            self._store,
            task=chosen_task(self._store, task),
            name=name,
            text=text,
            temperature=temperature,
            extrapolate=extrapolate,
        )
        self._store.routes.put(named.route)
        return named

    def delete_route(self, name: str, *, task: str | None) -> str:
        home = chosen_task(self._store, task)
        self._store.routes.delete(home, name)
        return home


def chosen_task(store: Store, task: str | None) -> str:
    if task is not None:
        return task
    known = sorted({record.spec.name for record in store.tasks.list()})
    if len(known) == 1:
        return known[0]
    if not known:
        raise NotFound("the store has no task yet", field="--task", remedy="train one with `corolla train`")
    raise InvalidInput(
        f"the store has {len(known)} tasks", field="--task", remedy=f"add one of {', '.join(known)}"
    )


def on_names(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command `--store`, and `--server` with what belongs to it; it is called with `names`."""

    @click.option(
        "--store",
        "url",
        envvar="COROLLA_STORE",
        metavar="URL",
        help="Folder or URL of the store (default: the user's data folder; env: COROLLA_STORE).",
    )
    @click.option(
        "--server", metavar="HOST:PORT", help="Act through this running server, at once, not on a store."
    )
    @reach_options
    @wraps(command)
    def run(url: str | None, server: str | None, reach: Reach, **rest: Any) -> Any:
        _check_place(server)
        with _names(url, server, reach) as names:
            return command(names=names, **rest)

    return run


def _names(url: str | None, server: str | None, reach: Reach) -> AbstractContextManager[Names]:
    if server is None:
        return nullcontext(StoreNames(Store.open(url)))
    try:
        from corolla.commands.resident import server_names
    except ModuleNotFoundError as error:
        raise MissingExtra("--server", (error.name or "").partition(".")[0], "client") from error
    return server_names(server, reach)


def _check_place(server: str | None) -> None:
    """Refuses what would be ignored."""
    context = click.get_current_context()

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    if server is not None and given("url"):
        raise InvalidInput(
            "a server has its own store", field="--store", remedy="give either --store or --server"
        )
    for name in _OF_SERVER:
        if server is None and given(name):
            flag = f"--{name.replace('_', '-')}"
            raise InvalidInput("it is about a server", field=flag, remedy="add --server HOST:PORT")
