"""Administration: what is in memory, what names mean, and changing both, whatever the protocol.

Every call checks before it changes, so one that fails has changed nothing. Knows neither protobuf nor gRPC.
Blocking: called in a pool, never on the event loop.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from model_store.collections.history import KEPT
from model_store.format.records import Audit, NamedRoute
from model_store.names import AdapterId, check_name
from model_store.resolution import named_route
from model_store.resolution.audit import history_of
from model_store.resolution.named_route import Naming
from model_store.resolution.promotion import Standing, after_move
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm
from model_store.routes.algebra import MAX_VERSION, AdapterRef
from model_store.routes.text import parse_adapter, parse_route
from model_store.store import Store
from petl_vit.errors import Conflict, CorollaError, InvalidInput
from serving.registry.catalog import Catalog, Change, Plan
from serving.registry.listing import READERS, AdapterState, Listing, Memory, aliases_of, listed, state_of
from serving.registry.resident import Resident
from serving.registry.watcher import Watcher

CHANGES = 100
"""Changes that a history shows where no limit is given."""


class Residency(Protocol):
    """Adapters in memory; see `serving.registry.adapter_cache`."""

    def load(self, term: ResolvedTerm) -> Resident: ...

    def unload(self, *digests: str) -> dict[str, int]: ...

    def pin(self, term: ResolvedTerm) -> Resident: ...

    def unpin(self, digest: str) -> Resident | None: ...

    def residents(self) -> list[Resident]: ...


@dataclass(frozen=True, kw_only=True)
class Unloaded:
    """An adapter that is not in memory now.

    Attributes:
        freed: Its bytes; None where it was not in memory before.
    """

    name: str
    digest: str
    freed: int | None


@dataclass(frozen=True, kw_only=True)
class AdapterAlias:
    """A movable name of a version."""

    adapter: AdapterId
    alias: str
    version: int


@dataclass(frozen=True, kw_only=True)
class SetAlias:
    """An alias that was pointed at a version.

    Attributes:
        before: The version it pointed at, if any.
        moved: The named routes that answer differently since.
    """

    alias: AdapterAlias
    before: int | None
    moved: tuple[Standing, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(standing.line for standing in self.moved)


@dataclass(frozen=True, kw_only=True)
class RouteState:
    """A named route and what it means now.

    Attributes:
        route: None where its file is damaged.
        plan: None where this server cannot answer it; `error` says why.
    """

    task: str
    name: str
    route: NamedRoute | None = None
    plan: Plan | None = None
    error: CorollaError | None = None

    @property
    def problem(self) -> str:
        return "" if self.error is None else str(self.error)


class Admin:
    """Lists and changes what a server has in memory and what names mean.

    Args:
        store: Where names are changed; `catalog` reads them.
        watcher: Makes requests see changes at once.
        registered_budget: Bytes that adapters may take in host memory.
        slot_budget: Bytes that adapters may take in slots; 0 where slots are not copies.
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
        self._store, self.catalog, self._cache, self._watcher = store, catalog, cache, watcher
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
        adapters = listed(
            self.catalog.store, self.catalog.backbone_digest, task, residents, resident_only=resident_only
        )
        return Listing(
            adapters=adapters,
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

    def load_route(self, resolved: ResolvedRoute) -> None:
        """Loads all adapters of a route; where one fails, those that this call has loaded are freed again.

        Raises:
            Corrupt, InvalidInput, Overloaded: As `load`.
        """
        before = {resident.digest for resident in self._cache.residents()}
        try:
            for term in resolved.terms():
                self._cache.load(term)
        except CorollaError:
            for digest in {term.digest for term in resolved.terms()} - before:
                with suppress(Conflict):  # somebody has pinned it since
                    self._cache.unload(digest)
            raise

    def unload(self, adapter: str, task: str = "") -> Unloaded:
        """Frees an adapter's memory; there is nothing to do where it is not in memory.

        Raises:
            NotFound: Neither the store nor the memory has it.
            Conflict: It is pinned.
        """
        name, digest, _ = self._named(adapter, task)
        return Unloaded(name=name, digest=digest, freed=self._cache.unload(digest).get(digest))

    def unload_route(self, resolved: ResolvedRoute) -> None:
        """Frees the memory of a route's adapters, as far as they are in memory: of all or of none.

        Raises:
            Conflict: One of them is pinned.
        """
        self._cache.unload(*(term.digest for term in resolved.terms()))

    def pin(self, adapter: str, task: str = "") -> AdapterState:
        """Loads an adapter and keeps it. Raises what `load` raises."""
        term = self._term(adapter, task)
        return self._state(term.full_name, term.digest, term.method, self._cache.pin(term))

    def unpin(self, adapter: str, task: str = "") -> AdapterState:
        """Lets an adapter be evicted when its memory is needed; nothing to do where it is not in memory.

        Raises:
            NotFound: Neither the store nor the memory has it.
        """
        name, digest, method = self._named(adapter, task)
        return self._state(name, digest, method, self._cache.unpin(digest))

    # Aliases

    def aliases(self, task: str = "") -> list[AdapterAlias]:
        """The aliases of the adapters of one task or of all.

        Raises:
            NotFound: No such task.
        """
        self._check_task(task)
        store = self.catalog.store
        with ThreadPoolExecutor(READERS) as readers:
            adapters = store.adapters.list(task or None)
            aliases_by_adapter = zip(
                adapters, readers.map(lambda a: aliases_of(store, a), adapters), strict=True
            )
            return [
                AdapterAlias(adapter=adapter, alias=alias, version=version)
                for adapter, aliases in aliases_by_adapter
                for alias, version in sorted(aliases.items())
            ]

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
        """Points an alias at a version that is loaded and verified first; new requests follow it at once.

        Args:
            by: Who asks, for the history; None is the user of this process.

        Raises:
            InvalidInput: A bad name or version, or an adapter of another backbone.
            NotFound: No such adapter or version.
            Corrupt: The version's files are damaged; the alias stays where it is.
            Conflict: It does not point at `expected`.
        """
        check_name(alias, "alias")
        _check_version(version, "version")
        if expected is not None:
            _check_version(expected, "expected_version")
        ref = parse_adapter(adapter)
        if ref.is_base or ref.version is not None or ref.alias is not None:
            raise InvalidInput(
                f"{adapter[:80]!r} cannot have aliases", field="adapter", remedy="write lora or TASK/lora"
            )
        term = self.catalog.term(task, AdapterRef(name=ref.name, task=ref.task, version=version))
        home = AdapterId(term.task.spec.name, ref.name)
        self._cache.load(term)
        before = self._store.adapters.set_alias(home.task, home.name, alias, version, expected, by)
        self._watcher.follow()
        moved = [] if before == version else after_move(self._store, home.task, home.name, alias)
        now = AdapterAlias(adapter=home, alias=alias, version=version)
        return SetAlias(alias=now, before=before, moved=tuple(moved))

    # Named routes

    def routes(self, task: str = "") -> list[RouteState]:
        """The named routes of one task or of all, including those that cannot be answered.

        Raises:
            NotFound: No such task.
        """
        self._check_task(task)
        names = self.catalog.store.routes.names(task or None)
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(lambda name: self._route(*name), names))

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
        """Stores a route under a name, in place of any other; requests follow it at once.

        Args:
            follow: Do not pin adapters that name no version.
            by: Who asks, for the history; None is the user of this process.

        Raises:
            InvalidInput: A bad name, text, alpha or temperature, or members that do not fit together.
            NotFound: An adapter that does not exist.
        """
        named = named_route.check(
            self._store,
            task=self.catalog.task(task),
            name=check_name(name, "name"),
            text=text,
            temperature=temperature,
            extrapolate=extrapolate,
            follow=follow,
            backbone_digest=self.catalog.backbone_digest,
        )
        self._store.routes.put(named.route, by=by)
        self._watcher.follow()
        return named

    def delete_route(self, task: str, name: str, by: str | None = None) -> str:
        """Deletes a named route; returns its task.

        Args:
            by: Who asks, for the history; None is the user of this process.

        Raises:
            NotFound: No such route.
        """
        home = self.catalog.task(task)
        self._store.routes.delete(home, check_name(name, "name"), by=by)
        self._watcher.follow()
        return home

    # Both

    def history(self, name: str, task: str = "", *, limit: int = 0) -> list[Audit]:
        """The newest changes of a route, with the moves of its aliases, of `lora@prod`, or of all names.

        Args:
            name: Empty is all.
            task: Of a name without one; without a name, only changes of that task.
            limit: 0 is 100; at most 1,000.

        Raises:
            NotFound: There is no such route, and never was.
        """
        home = self.catalog.task(task) if name and "/" not in name else task
        return history_of(self._store, name or None, task=home or None, limit=min(limit or CHANGES, KEPT))

    def reload(self) -> list[Change]:
        """Reads all names from the store again; returns what changed.

        Raises:
            CorollaError: The store cannot be read; everything stays as it was.
        """
        return self._watcher.reload()

    # One at a time

    def _term(self, adapter: str, task: str) -> ResolvedTerm:
        return self.catalog.term(task, parse_adapter(adapter))

    def _named(self, adapter: str, task: str) -> tuple[str, str, str]:
        """The name, the digest and the method of an adapter; the store may have forgotten one in memory."""
        ref = parse_adapter(adapter)
        if ref.is_base or ref.version is not None:
            name = f"{ref.task or self.catalog.task(task)}/{AdapterRef(name=ref.name, version=ref.version)}"
            for resident in self._cache.residents():
                if name in resident.names:
                    return name, resident.digest, resident.method
        term = self.catalog.term(task, ref)
        return term.full_name, term.digest, term.method

    def _state(self, name: str, digest: str, method: str, resident: Resident | None) -> AdapterState:
        return state_of(self.catalog.store, name, digest, method, resident)

    def _route(self, task: str, name: str) -> RouteState:
        named: NamedRoute | None = None
        try:
            named = self.catalog.store.routes.get(task, name)
            plan = self.catalog.plan(task, parse_route(name), extrapolate=False)
        except CorollaError as error:
            return RouteState(task=task, name=name, route=named, error=error)
        return RouteState(task=task, name=name, route=named, plan=plan)

    def _check_task(self, task: str) -> None:
        if task:
            self.catalog.store.tasks.get(task, self.catalog.backbone_digest)


def _check_version(version: int, field: str) -> None:
    if not 1 <= version <= MAX_VERSION:
        raise InvalidInput(
            f"{version} is not a version", field=field, remedy=f"versions are numbers from 1 to {MAX_VERSION}"
        )
