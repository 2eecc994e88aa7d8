"""Administration by callers who may use some tasks and routes only: others are neither shown nor changed."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from model_store.collections.history import KEPT
from model_store.format.records import Audit
from model_store.resolution.named_route import Naming
from model_store.routes.algebra import AdapterRef
from model_store.routes.text import parse_adapter, parse_route
from petl_vit.errors import NotFound
from serving.access import rights
from serving.access.caller import caller
from serving.registry.admin import CHANGES, AdapterAlias, Admin, RouteState, SetAlias, Unloaded
from serving.registry.catalog import Change
from serving.registry.listing import AdapterState, Listing

T = TypeVar("T")


class PermittedAdmin(Admin):
    """`Admin`, as far as the caller of the call under way may use what it is about.

    Every method raises `Forbidden` for a name that the caller may not use, besides what `Admin`'s raises.
    """

    def adapters(self, task: str = "", *, resident_only: bool = False) -> Listing:
        _check_listed(task)
        listing = super().adapters(task, resident_only=resident_only)
        return replace(listing, adapters=[state for state in listing.adapters if _may_see(state.name)])

    def load(self, adapter: str, task: str = "") -> AdapterState:
        load = super().load
        return self._about(task, [parse_adapter(adapter)], lambda home: load(adapter, home))

    def unload(self, adapter: str, task: str = "") -> Unloaded:
        unload = super().unload
        return self._about(task, [parse_adapter(adapter)], lambda home: unload(adapter, home))

    def pin(self, adapter: str, task: str = "") -> AdapterState:
        pin = super().pin
        return self._about(task, [parse_adapter(adapter)], lambda home: pin(adapter, home))

    def unpin(self, adapter: str, task: str = "") -> AdapterState:
        unpin = super().unpin
        return self._about(task, [parse_adapter(adapter)], lambda home: unpin(adapter, home))

    def aliases(self, task: str = "") -> list[AdapterAlias]:
        _check_listed(task)
        return [alias for alias in super().aliases(task) if _may_see(str(alias.adapter))]

    def set_alias(
        self,
        adapter: str,
        alias: str,
        version: int,
        *,
        task: str = "",
        expected: int | None = None,
        by: str | None = None,
    ) -> SetAlias:
        move = super().set_alias
        done = self._about(
            task,
            [parse_adapter(adapter)],
            lambda home: move(adapter, alias, version, task=home, expected=expected, by=by),
        )
        return replace(done, moved=tuple(standing for standing in done.moved if _may_see(standing.name)))

    def routes(self, task: str = "") -> list[RouteState]:
        _check_listed(task)
        return [_shown(state) for state in super().routes(task) if _may_see(f"{state.task}/{state.name}")]

    def put_route(
        self,
        task: str,
        name: str,
        text: str,
        *,
        temperature: float | None = None,
        extrapolate: bool = False,
        follow: bool = False,
        by: str | None = None,
    ) -> Naming:
        put = super().put_route
        # Whoever may use a named route may use its members, so nobody names members that they may not use.
        members = parse_route(text).adapters
        return self._about(
            task,
            [AdapterRef(name=name), *members],
            lambda home: put(
                home, name, text, temperature=temperature, extrapolate=extrapolate, follow=follow, by=by
            ),
        )

    def delete_route(self, task: str, name: str, by: str | None = None) -> str:
        delete = super().delete_route
        return self._about(task, [AdapterRef(name=name)], lambda home: delete(home, name, by))

    def history(self, name: str, task: str = "", *, limit: int = 0) -> list[Audit]:
        if not caller().limited:
            return super().history(name, task, limit=limit)
        history = super().history
        if name:
            records = self._about(task, [parse_adapter(name)], lambda home: history(name, home, limit=limit))
        else:
            _check_listed(task)
            records = history(name, task, limit=KEPT)
        return [record for record in records if _may_see(record.name)][: limit or CHANGES]

    def reload(self) -> list[Change]:
        return [change for change in super().reload() if _may_see(change.name)]

    def _about(self, task: str, refs: Iterable[AdapterRef], act: Callable[[str], T]) -> T:
        """What an action on names gives, once the caller may use them all.

        Args:
            act: Takes the task of names without one; empty where there is none.
        """
        principal = caller()
        if not principal.limited:
            return act(task)
        home = rights.checked_home(self.catalog, principal, task, refs)
        try:
            return act(home)
        except NotFound as error:
            raise rights.discreet(error) from None


def _check_listed(task: str) -> None:
    if task:
        rights.check_task(caller(), task)


def _shown(state: RouteState) -> RouteState:
    if state.error is None or not caller().limited:
        return state
    return replace(state, error=rights.discreet(state.error))


def _may_see(full_name: str) -> bool:
    return rights.may_use_name(caller(), full_name)
