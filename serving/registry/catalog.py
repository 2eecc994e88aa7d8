"""The catalog: what names mean now, named routes, aliases and versions, as the store says.

Names are resolved against a view, the store's names at one moment; what a request resolved to stays fixed
while it runs. `refresh` takes the next view. The watcher does so all the time, so that requests wait for the
store only where a name was never asked for. Blocking: called in the pool, never on the event loop.
"""

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from model_store.format.records import Cascade, NamedRoute
from model_store.names import BASE, LATEST
from model_store.place.snapshot import Snapshot
from model_store.resolution.answering import answering, uncalibrated
from model_store.resolution.reference import referenced_route
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm, resolve
from model_store.routes.algebra import AdapterRef, Entry, Model, Route, Term
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.combine import Combine
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound
from serving.registry.replaced import check_is_ours

_log = logging.getLogger(__name__)

_MAX_PLANS = 1024
_MAX_CHANGES = 100
"""Changed aliases, routes and tasks of which one refresh says what has changed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a request is to be answered.

    Attributes:
        named: `task/name` of the named route that the request gave; None for an ad-hoc route.
        temperature: Divides the combined logits; 1 for an ad-hoc route.
        note: Why that is not the temperature that is stored for the named route, or may not fit, or why a
            cascade's thresholds are not applied; else empty.
        cascade: The thresholds that apply; None where all members answer.
    """

    resolved: ResolvedRoute
    named: str | None
    temperature: float
    note: str = ""
    cascade: Cascade | None = None

    @cached_property
    def digest(self) -> str:
        """Of what it computes: a reference of this digest, and no other, is of this plan."""
        return referenced_route(self.resolved, self.temperature, cascade=self.cascade).digest

    @property
    def void(self) -> bool:
        """Whether a cascade's thresholds belong to other versions, so that all its members answer."""
        return self.resolved.combine is Combine.CASCADE and self.cascade is None

    def __str__(self) -> str:
        temperature = "" if self.temperature == 1 else f" at temperature {self.temperature:.4g}"
        asked = "" if self.cascade is None else f", {self.cascade.asks}"
        return f"{self.resolved}{temperature}{', all members asked' if self.void else asked}"


Warm = Callable[[Plan], object]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One name whose meaning changed; `before` and `after` are empty where the name was not known.

    Attributes:
        name: `task/adapter@alias`, `task/route`, `task/adapter:version` or `task`.
        key: Where its record is.
        temperature: That a route is stored with now.
    """

    name: str
    before: str
    after: str
    key: str = field(default="", compare=False)
    temperature: float | None = field(default=None, compare=False)

    @property
    def kind(self) -> str:
        """`aliases`, `routes`, `tasks` or `adapters`."""
        return self.key.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Move:
    """One named route that is answered otherwise than before.

    Attributes:
        before, after: None where it could not, or cannot, be answered.
        aliases: `task/adapter@alias` of those that it names now, `latest` too.
    """

    name: str  # `task/route`
    before: Plan | None
    after: Plan | None
    aliases: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What a newer view of the names has changed.

    Attributes:
        plans: What the changed named routes mean.
        changes: The names whose records changed.
        moves: The named routes that are answered otherwise.
        left_out: How many more records changed, which were not read.
    """

    plans: list[Plan] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    left_out: int = 0


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
        self._named = self._by_name(self._view)
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
        if (plan := self.known(task, route, extrapolate=extrapolate)) is not None:
            return plan
        view, key = self._view, (task, str(route), extrapolate)
        try:
            plan = self._plan(view.store, task, route, extrapolate)
        except NotFound:
            check_is_ours(self._store, self.backbone_digest)
            return self._plan(self._store, task, route, extrapolate)  # the view may be behind
        view.keep(key, plan)
        return plan

    def known(self, task: str, route: Route, *, extrapolate: bool) -> Plan | None:
        """As `plan`, without asking the store; None where it would have to be asked."""
        return self._view.plan((task, str(route), extrapolate))

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

    @property
    def named(self) -> Mapping[str, tuple[NamedRoute, Plan]]:
        """The named routes that can be served, by `task/name`, at the moment of the view."""
        return self._named

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

    def refresh(self, warm: Warm = lambda plan: None) -> Refreshed:
        """Takes the names as they are now, if they have changed. Requests use the old ones meanwhile.

        Args:
            warm: Called with what each changed named route means, before any request sees it.

        Raises:
            CorollaError: The store cannot be read; the names stay as they were.
        """
        with self._refreshing:
            snapshot = self._view.snapshot.later()
            if snapshot is None:
                return Refreshed()
            check_is_ours(self._store, self.backbone_digest)
            return self._change_to(_View(snapshot), warm, kinds=_NAMES, most=_MAX_CHANGES)

    def reload(self, warm: Warm = lambda plan: None) -> Refreshed:
        """As `refresh`, but reads all names from the store again, and says of all records what changed."""
        with self._refreshing:
            check_is_ours(self._store, self.backbone_digest)
            return self._change_to(_View(self._store.snapshot()), warm, kinds=tuple(_MEANING), most=None)

    def _change_to(self, view: _View, warm: Warm, *, kinds: Sequence[str], most: int | None) -> Refreshed:
        """Makes a view the current one."""
        old, before, named = self._view.snapshot, self._named, self._by_name(view)
        differing = {
            name for name in before.keys() | named.keys() if _plan(before, name) != _plan(named, name)
        }
        plans = [plan for name, (_, plan) in named.items() if name in differing]
        for plan in plans:
            warm(plan)
        keys = [key for key in view.snapshot.changed(old) if key.partition("/")[0] in kinds]
        changes = (_change(key, old, view.snapshot) for key in keys[:most])
        refreshed = Refreshed(
            plans=plans,
            changes=[change for change in changes if change is not None],
            moves=[
                Move(
                    name=name,
                    before=_plan(before, name),
                    after=_plan(named, name),
                    aliases=_aliases(named[name][0]) if name in named else frozenset(),
                )
                for name in sorted(differing)
            ],
            left_out=0 if most is None else max(0, len(keys) - most),
        )
        self._view, self._named = view, named
        return refreshed

    def _by_name(self, view: _View) -> dict[str, tuple[NamedRoute, Plan]]:
        return {f"{named.task}/{named.name}": (named, plan) for named, plan in self._named_routes(view.store)}

    # Resolving against one store

    def _plan(self, store: Store, task: str, route: Route, extrapolate: bool) -> Plan:
        task = self._home(store, task, route)
        named = store.routes.meant_by(task, route)
        if named is not None:
            return self._named_plan(store, named)
        resolved = self._resolve(store, route, task, extrapolate)
        if route.combine is Combine.CASCADE:
            raise uncalibrated(route)
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
        now = answering(store, named, self.backbone_digest)
        return Plan(
            resolved=now.resolved,
            named=f"{named.task}/{named.name}",
            temperature=now.temperature,
            note=now.note,
            cascade=now.cascade,
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


_NAMES = ("aliases", "routes", "tasks")
_MEANING = {"aliases": "version", "routes": "route", "tasks": "digest", "adapters": "digest"}
"""The field of each kind of record that has the meaning of its name."""


def _plan(named: dict[str, tuple[NamedRoute, Plan]], name: str) -> Plan | None:
    return named[name][1] if name in named else None


def _aliases(named: NamedRoute) -> frozenset[str]:
    refs = named.parsed().moving
    return frozenset(f"{ref.task or named.task}/{ref.name}@{ref.alias or LATEST}" for ref in refs)


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
    data = new.read(key)
    before, after = meaning(key, old.known(key)), meaning(key, data)
    temperature = None
    if kind == "routes" and data is not None:
        with suppress(CorollaError):
            temperature = NamedRoute.parse(data, key).temperature
    return Change(name=name, before=before, after=after, key=key, temperature=temperature)


def meaning(key: str, data: bytes | None) -> str:
    """What the record of a name says that it means; empty where there is none."""
    try:
        return "" if data is None else str(json.loads(data)[_MEANING[key.partition("/")[0]]])
    except (ValueError, KeyError, TypeError):
        return "damaged"
