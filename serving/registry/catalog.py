"""The catalog: what names mean now, named routes, aliases and versions, as the store says.

Names are resolved against a view, the store's names at one moment; what a request resolved to stays fixed
while it runs. `refresh` takes the next view. The watcher does so all the time, so that requests wait for the
store only where a name was never asked for. Blocking: called in the pool, never on the event loop.
"""

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from model_store.format.records import NamedRoute
from model_store.names import BASE
from model_store.place.snapshot import Snapshot
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm, resolve
from model_store.routes.algebra import AdapterRef, Entry, Model, Route, Term
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound

_log = logging.getLogger(__name__)

_MAX_PLANS = 1024


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a request is to be answered.

    Attributes:
        named: `task/name` of the named route that the request gave; None for an ad-hoc route.
        temperature: Divides the combined logits; 1 for an ad-hoc route.
    """

    resolved: ResolvedRoute
    named: str | None
    temperature: float


Warm = Callable[[Plan], object]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One name whose meaning changed; `before` and `after` are empty where the name was not known."""

    name: str  # `task/adapter@alias`, `task/route`, `task/adapter:version` or `task`
    before: str
    after: str


class _View:
    """The names at one moment, and the plans made by them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot, self.store = snapshot, Store(snapshot)
        self._plans: OrderedDict[tuple[str, str, bool], Plan] = OrderedDict()
        self._lock = threading.Lock()

    def plan(self, key: tuple[str, str, bool]) -> Plan | None:
        return self._plans.get(key)

    def keep(self, key: tuple[str, str, bool], plan: Plan) -> None:
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > _MAX_PLANS:
                self._plans.popitem(last=False)


class Catalog:
    """Resolves routes against a store.

    Args:
        store: Where names live.
        backbone_digest: The backbone that is served.

    Raises:
        CorollaError: The store cannot be read.
    """

    def __init__(self, store: Store, backbone_digest: str) -> None:
        self.backbone_digest = backbone_digest
        self._store = store
        self._view = _View(store.snapshot())
        self._named = self._plans_by_name(self._view)
        self._refreshing = threading.Lock()

    @property
    def store(self) -> Store:
        """The store at the moment of the view; it reads nothing twice."""
        return self._view.store

    # What names mean

    def plan(self, task: str, route: Route, *, extrapolate: bool) -> Plan:
        """How a request for a route is to be answered.

        Args:
            task: The request's task; may be empty where the route names one, or the store has only one.

        Raises:
            NotFound: A name that does not exist.
            InvalidInput: No task; alpha out of range; members that do not fit together, or not the task.
        """
        view, key = self._view, (task, str(route), extrapolate)
        if (plan := view.plan(key)) is not None:
            return plan
        try:
            plan = self._plan(view.store, task, route, extrapolate)
        except NotFound:
            return self._plan(self._store, task, route, extrapolate)  # the view may be behind
        view.keep(key, plan)
        return plan

    def term(self, task: str, ref: AdapterRef) -> ResolvedTerm:
        """The version that a reference to one adapter means; never a named route.

        Raises:
            NotFound: A name that does not exist.
            InvalidInput: No task.
            Unsupported: An adapter of another backbone.
        """
        entry = Entry(model=Model(terms=(Term(adapter=ref),)))
        route, home = Route(entries=(entry,)), ref.task or task
        try:
            resolved = self._resolve(self.store, route, self._home(self.store, home, route))
        except NotFound:
            resolved = self._resolve(self._store, route, self._home(self._store, home, route))
        return resolved.members[0].terms[0]

    def task(self, task: str) -> str:
        """The task, or the only one there is.

        Raises:
            InvalidInput: None is named, and there are several.
        """
        return task or self._only_task(self.store)

    def named_routes(self) -> list[tuple[NamedRoute, Plan]]:
        """Every named route that can be served by this backbone now."""
        return self._named_routes(self.store)

    def served(self) -> Iterator[ResolvedRoute]:
        """All that has a name now: the base of every task, and every named route."""
        with suppress(CorollaError):
            for record in self.store.tasks.list():
                if record.spec.backbone_digest == self.backbone_digest:
                    route = parse_route(f"{record.spec.name}/{BASE}")
                    yield self._resolve(self.store, route, record.spec.name)
        for _, plan in self._named_routes(self.store):
            yield plan.resolved

    def image_sizes(self) -> list[int]:
        """The input sizes of the backbone's tasks, pixels; none while a task's file is damaged.

        Other sizes are served too, after a slower first request.
        """
        try:
            tasks = [record.spec for record in self.store.tasks.list()]
        except Corrupt as error:
            _log.warning("tasks are not warmed up: %s", error)
            return []
        return sorted({t.preprocess.image_size for t in tasks if t.backbone_digest == self.backbone_digest})

    # Following the store

    def refresh(self, warm: Warm = lambda plan: None) -> list[Plan]:
        """Takes the names as they are now, if they have changed. Requests use the old ones meanwhile.

        Args:
            warm: Called with what each changed named route means, before any request sees it.

        Returns:
            What the changed named routes mean.

        Raises:
            CorollaError: The store cannot be read; the names stay as they were.
        """
        with self._refreshing:
            snapshot = self._view.snapshot.later()
            return [] if snapshot is None else self._change_to(_View(snapshot), warm)

    def reload(self, warm: Warm = lambda plan: None) -> tuple[list[Plan], list[Change]]:
        """As `refresh`, but reads all names from the store again."""
        with self._refreshing:
            old, view = self._view, _View(self._store.snapshot())
            plans = self._change_to(view, warm)
            changes = (
                _change(key, old.snapshot, view.snapshot) for key in view.snapshot.changed(old.snapshot)
            )
            return plans, [change for change in changes if change is not None]

    def _change_to(self, view: _View, warm: Warm) -> list[Plan]:
        """Makes a view the current one."""
        named = self._plans_by_name(view)
        changed = [plan for name, plan in named.items() if plan != self._named.get(name)]
        for plan in changed:
            warm(plan)
        self._view, self._named = view, named
        return changed

    def _plans_by_name(self, view: _View) -> dict[str | None, Plan]:
        return {plan.named: plan for _, plan in self._named_routes(view.store)}

    # Resolving against one store

    def _plan(self, store: Store, task: str, route: Route, extrapolate: bool) -> Plan:
        task = self._home(store, task, route)
        named = store.routes.meant_by(task, route)
        if named is not None:
            return self._named_plan(store, named)
        resolved = self._resolve(store, route, task, extrapolate)
        return Plan(resolved=resolved, named=None, temperature=1.0)

    def _named_routes(self, store: Store) -> list[tuple[NamedRoute, Plan]]:
        routes = []
        # A request for a damaged or unknown route is answered with its error.
        with suppress(CorollaError):
            for task, name in store.routes.names():
                with suppress(CorollaError):
                    named = store.routes.get(task, name)
                    routes.append((named, self._named_plan(store, named)))
        return routes

    def _named_plan(self, store: Store, named: NamedRoute) -> Plan:
        return Plan(
            resolved=self._resolve(store, named.parsed(), named.task, named.extrapolate),
            named=f"{named.task}/{named.name}",
            temperature=named.temperature,
        )

    def _resolve(self, store: Store, route: Route, task: str, extrapolate: bool = False) -> ResolvedRoute:
        return resolve(
            route, task=task, store=store, backbone_digest=self.backbone_digest, extrapolate=extrapolate
        )

    def _home(self, store: Store, task: str, route: Route) -> str:
        """The task of a request; the only one where it names none."""
        if task or all(ref.task for ref in route.adapters):
            return task
        return self._only_task(store)

    @staticmethod
    def _only_task(store: Store) -> str:
        names = sorted({record.spec.name for record in store.tasks.list()})
        if len(names) == 1:
            return names[0]
        remedy = f"set it to one of {', '.join(names)}" if names else "train an adapter first"
        raise InvalidInput("the request names no task", field="task", remedy=remedy)


_MEANING = {"aliases": "version", "routes": "route", "tasks": "digest", "adapters": "digest"}
"""The field of each kind of record that has the meaning of its name."""


def _change(key: str, old: Snapshot, new: Snapshot) -> Change | None:
    """A changed key in words; None where it is not the key of a name."""
    kind, *parts = key.split("/")
    match kind, parts:
        case "aliases", [task, adapter, alias]:
            name = f"{task}/{adapter}@{alias}"
        case "routes", [task, route]:
            name = f"{task}/{route}"
        case "tasks", [name, _, "task.json"]:
            pass
        case "adapters", [task, adapter, version, "manifest.json"]:
            name = f"{task}/{adapter}:{version}"
        case _:
            return None
    before, after = (_field_of(data, _MEANING[kind]) for data in (old.known(key), new.read(key)))
    return Change(name=name, before=before, after=after)


def _field_of(data: bytes | None, field: str) -> str:
    try:
        return "" if data is None else str(json.loads(data)[field])
    except (ValueError, KeyError, TypeError):
        return "damaged"
