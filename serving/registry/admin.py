"""Administration, transport-free: what is in memory, what names mean, and changing both.

Everything checks before it changes, so a call that fails has changed nothing. Knows neither protobuf nor
gRPC. Blocking: called in a pool, never on the event loop.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from model_store.format.records import NamedRoute
from model_store.names import AdapterId, check_alias, check_name, not_found
from model_store.resolution import named_route as naming
from model_store.resolution.named_route import Naming
from model_store.resolution.versions import ResolvedTerm
from model_store.routes.algebra import MAX_VERSION, AdapterRef
from model_store.routes.text import parse_adapter, parse_route
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound
from serving.registry.catalog import Catalog, Change, Plan
from serving.registry.resident import Resident
from serving.registry.watcher import Watcher

_READERS = 16  # files that are read at the same time for a listing; most have been read before


class Residency(Protocol):
    """Adapters in memory; see `serving.registry.adapter_cache`."""

    def load(self, term: ResolvedTerm) -> Resident: ...

    def unload(self, digest: str) -> int: ...

    def pin(self, term: ResolvedTerm) -> Resident: ...

    def unpin(self, digest: str) -> Resident: ...

    def residents(self) -> list[Resident]: ...


@dataclass(frozen=True, kw_only=True)
class AdapterState:
    """One version of an adapter, or the base of a task.

    Attributes:
        name: `task/name:version` or `task/base`.
        aliases: Those that point at it.
        stored: Whether the store has it.
        resident: What it takes, where it is in memory.
        problem: Why its record cannot be used; then nothing is known but its name.
    """

    name: str
    digest: str = ""
    method: str = ""
    aliases: tuple[str, ...] = ()
    stored: bool = True
    resident: Resident | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What adapters take of a budget; bytes."""

    adapters: int
    size: int
    budget: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Adapters, and what all that are in memory take."""

    adapters: list[AdapterState]
    registered: Memory
    slots: Memory


@dataclass(frozen=True, kw_only=True)
class Unloaded:
    """An adapter that has left memory."""

    name: str
    digest: str
    freed: int


@dataclass(frozen=True, kw_only=True)
class AdapterAlias:
    """A movable name of a version."""

    adapter: AdapterId
    alias: str
    version: int


@dataclass(frozen=True, kw_only=True)
class RouteState:
    """A named route and what it means now.

    Attributes:
        route: None where its file is damaged.
        plan: None where this server cannot answer it; `problem` says why.
    """

    task: str
    name: str
    route: NamedRoute | None = None
    plan: Plan | None = None
    problem: str = ""


class Admin:
    """Looks into a server and changes it.

    Args:
        store: Where names are changed; `catalog` reads them.
        watcher: Brings changes to requests at once.
        registered_budget, slot_budget: Bytes that adapters may take in memory, and in slots; 0 where
            slots take none of their own.
    """

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        cache: Residency,
        watcher: Watcher,
        registered_budget: int,
        slot_budget: int,
    ) -> None:
        self._store, self._catalog, self._cache, self._watcher = store, catalog, cache, watcher
        self._registered_budget, self._slot_budget = registered_budget, slot_budget

    # Adapters in memory

    def adapters(self, task: str = "", *, resident_only: bool = False) -> Listing:
        """The adapters that this backbone can run, of one task or of all.

        What is in memory comes first, most recently used first.

        Raises:
            NotFound: No such task.
        """
        self._check_task(task)
        residents = self._cache.residents()
        found = {
            (name, resident.digest): AdapterState(
                name=name, digest=resident.digest, method=resident.method, stored=False, resident=resident
            )
            for resident in residents
            for name in resident.names
            if not task or name.startswith(f"{task}/")
        }
        by_digest = {resident.digest: resident for resident in residents}
        wanted = _adapters_of(name for name, _ in found)
        if not resident_only:
            wanted |= self._catalog.store.adapters.published(task or None)
        for state in self._stored(task, wanted, by_digest):
            if not resident_only or state.resident is not None:
                found[state.name, state.digest] = state
        return Listing(
            adapters=list(found.values()),
            registered=Memory(
                adapters=len(residents),
                size=sum(resident.registered_bytes for resident in residents),
                budget=self._registered_budget,
            ),
            slots=Memory(
                adapters=sum(resident.in_slot for resident in residents),
                size=sum(resident.slot_bytes for resident in residents),
                budget=self._slot_budget,
            ),
        )

    def load(self, adapter: str, task: str = "") -> AdapterState:
        """Loads an adapter into a slot.

        Raises:
            InvalidInput, NotFound: It is not one adapter of this backbone.
            Corrupt: Its files are damaged.
            Overloaded: Memory is taken by what is pinned or in use.
        """
        term = self._term(adapter, task)
        return self._state(term.full_name, term.digest, term.method, self._cache.load(term))

    def unload(self, adapter: str, task: str = "") -> Unloaded:
        """Frees an adapter's memory.

        Raises:
            NotFound: It is not in memory.
            Conflict: It is pinned.
        """
        name, digest = self._resident(adapter, task)
        return Unloaded(name=name, digest=digest, freed=self._cache.unload(digest))

    def pin(self, adapter: str, task: str = "") -> AdapterState:
        """Loads an adapter and keeps it. Raises what `load` raises."""
        term = self._term(adapter, task)
        return self._state(term.full_name, term.digest, term.method, self._cache.pin(term))

    def unpin(self, adapter: str, task: str = "") -> AdapterState:
        """Lets an adapter go when its memory is needed.

        Raises:
            NotFound: It is not in memory.
        """
        name, digest = self._resident(adapter, task)
        resident = self._cache.unpin(digest)
        return self._state(name, digest, resident.method, resident)

    # Aliases

    def aliases(self, task: str = "") -> list[AdapterAlias]:
        """The aliases of the adapters of one task or of all.

        Raises:
            NotFound: No such task.
        """
        self._check_task(task)
        store = self._catalog.store
        with ThreadPoolExecutor(_READERS) as readers:
            adapters = store.adapters.list(task or None)
            found = zip(adapters, readers.map(lambda a: _aliases(store, a), adapters), strict=True)
            return [
                AdapterAlias(adapter=adapter, alias=alias, version=version)
                for adapter, aliases in found
                for alias, version in sorted(aliases.items())
            ]

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str = "", expected: int | None = None
    ) -> tuple[AdapterAlias, int | None]:
        """Points an alias at a version that is loaded and verified first; new requests go by it at once.

        Returns:
            The alias, and the version it pointed at before, if any.

        Raises:
            InvalidInput: A bad name or version, `latest`, or an adapter of another backbone.
            NotFound: No such adapter or version.
            Corrupt: The version's files are damaged; the alias stays where it is.
            Conflict: It does not point at `expected`.
        """
        check_alias(alias)
        _check_version(version, "version")
        if expected is not None:
            _check_version(expected, "expected_version")
        ref = parse_adapter(adapter)
        if ref.is_base or ref.version is not None or ref.alias is not None:
            raise InvalidInput(
                f"{adapter[:80]!r} cannot have aliases", field="adapter", remedy="write lora or TASK/lora"
            )
        term = self._catalog.term(task, AdapterRef(name=ref.name, task=ref.task, version=version))
        home = AdapterId(term.task.spec.name, ref.name)
        self._cache.load(term)
        before = self._store.adapters.set_alias(home.task, home.name, alias, version, expected)
        self._watcher.follow()
        return AdapterAlias(adapter=home, alias=alias, version=version), before

    # Named routes

    def routes(self, task: str = "") -> list[RouteState]:
        """The named routes of one task or of all, those that cannot be answered too.

        Raises:
            NotFound: No such task.
        """
        self._check_task(task)
        names = self._catalog.store.routes.names(task or None)
        with ThreadPoolExecutor(_READERS) as readers:
            return list(readers.map(lambda name: self._route(*name), names))

    def put_route(
        self,
        task: str,
        name: str,
        text: str,
        *,
        temperature: float | None = None,
        extrapolate: bool = False,
    ) -> Naming:
        """Keeps a route under a name, in the place of any other; requests go by it at once.

        Raises:
            InvalidInput: A bad name, text, alpha or temperature, or members that do not fit together.
            NotFound: An adapter that does not exist.
        """
        named = naming.check(
            self._store,
            task=self._catalog.task(task),
            name=check_name(name, "name"),
            text=text,
            temperature=temperature,
            extrapolate=extrapolate,
            backbone_digest=self._catalog.backbone_digest,
        )
        self._store.routes.put(named.route)
        self._watcher.follow()
        return named

    def delete_route(self, task: str, name: str) -> str:
        """Forgets a named route; returns its task.

        Raises:
            NotFound: No such route.
        """
        home = self._catalog.task(task)
        self._store.routes.delete(home, check_name(name, "name"))
        self._watcher.follow()
        return home

    # Both

    def reload(self) -> list[Change]:
        """Forgets what names meant and asks the store for all of it; what changed.

        Raises:
            CorollaError: The store cannot be read; everything stays as it was.
        """
        return self._watcher.reload()

    # One at a time

    def _term(self, adapter: str, task: str) -> ResolvedTerm:
        return self._catalog.term(task, parse_adapter(adapter))

    def _resident(self, adapter: str, task: str) -> tuple[str, str]:
        """The name and digest of an adapter in memory, which the store may have forgotten."""
        ref = parse_adapter(adapter)
        residents = self._cache.residents()
        if ref.is_base or ref.version is not None:
            name = f"{ref.task or self._catalog.task(task)}/{AdapterRef(name=ref.name, version=ref.version)}"
            for resident in residents:
                if name in resident.names:
                    return name, resident.digest
        term = self._catalog.term(task, ref)
        if term.digest not in (resident.digest for resident in residents):
            raise not_found(
                f"adapter {term.full_name} is not in memory",
                term.full_name,
                (name for resident in residents for name in resident.names),
                field="adapter",
                when_empty="nothing is",
            )
        return term.full_name, term.digest

    def _state(self, name: str, digest: str, method: str, resident: Resident | None) -> AdapterState:
        ref = parse_adapter(name)
        aliases: tuple[str, ...] = ()
        if ref.version is not None:
            home = AdapterId(str(ref.task), ref.name)
            aliases = _pointing(_aliases(self._catalog.store, home), ref.version)
        return AdapterState(name=name, digest=digest, method=method, aliases=aliases, resident=resident)

    def _route(self, task: str, name: str) -> RouteState:
        try:
            named = self._catalog.store.routes.get(task, name)
        except CorollaError as error:
            return RouteState(task=task, name=name, problem=str(error))
        try:
            plan = self._catalog.plan(task, parse_route(name), extrapolate=False)
        except CorollaError as error:
            return RouteState(task=task, name=name, route=named, problem=str(error))
        return RouteState(task=task, name=name, route=named, plan=plan)

    def _check_task(self, task: str) -> None:
        if task:
            self._catalog.store.tasks.get(task, self._catalog.backbone_digest)

    # Listings

    def _stored(
        self, task: str, adapters: dict[AdapterId, list[int]], by_digest: dict[str, Resident]
    ) -> list[AdapterState]:
        """What the store says of the bases and of these adapters, by name."""
        store = self._catalog.store
        bases = [
            ResolvedTerm(alpha=1.0, manifest=None, task=record)
            for record in store.tasks.list()
            if record.spec.backbone_digest == self._catalog.backbone_digest
            and (not task or record.spec.name == task)
        ]
        ordered = sorted(adapters.items())
        with ThreadPoolExecutor(_READERS) as readers:
            found = readers.map(lambda item: self._versions(item[0], item[1], by_digest), ordered)
            return [state for states in found for state in states] + [
                self._state(base.full_name, base.digest, base.method, by_digest.get(base.digest))
                for base in bases
            ]

    def _versions(
        self, adapter: AdapterId, versions: list[int], by_digest: dict[str, Resident]
    ) -> list[AdapterState]:
        store = self._catalog.store
        aliases, found = _aliases(store, adapter), []
        for version in versions:
            try:
                manifest = store.adapters.manifest(adapter.task, adapter.name, version)
            except NotFound:
                continue
            except CorollaError as error:
                found.append(AdapterState(name=f"{adapter}:{version}", problem=str(error)))
                continue
            if manifest.backbone_digest == self._catalog.backbone_digest:
                state = AdapterState(
                    name=str(manifest),
                    digest=manifest.digest,
                    method=manifest.method,
                    aliases=_pointing(aliases, version),
                    resident=by_digest.get(manifest.digest),
                )
                found.append(state)
        return found


def _adapters_of(names: Iterable[str]) -> dict[AdapterId, list[int]]:
    """The adapters and versions of full names; bases have none."""
    found: dict[AdapterId, list[int]] = {}
    for name in names:
        ref = parse_adapter(name)
        if ref.version is not None:
            found.setdefault(AdapterId(str(ref.task), ref.name), []).append(ref.version)
    return found


def _aliases(store: Store, adapter: AdapterId) -> dict[str, int]:
    """The aliases of an adapter; none where one is damaged, as whoever asks for that one is told."""
    with suppress(Corrupt):
        return store.adapters.aliases(adapter.task, adapter.name)
    return {}


def _pointing(aliases: dict[str, int], version: int) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, at in aliases.items() if at == version))


def _check_version(version: int, field: str) -> None:
    if not 1 <= version <= MAX_VERSION:
        raise InvalidInput(f"{version} is not a version", field=field, remedy="versions count from 1")
