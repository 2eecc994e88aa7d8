"""Administration over a real store, with an adapter cache that only remembers."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from model_store.resolution.versions import ResolvedTerm
from model_store.routes.text import parse_route
from petl_vit.errors import Conflict, CorollaError, Corrupt
from serving.registry.admin import Admin
from serving.registry.catalog import Catalog, Plan
from serving.registry.changes import Changes
from serving.registry.listing import AdapterState
from serving.registry.resident import Resident
from serving.registry.watcher import Watcher
from tests.serving.world import World

LONG = "x" * 10_000


class RememberingCache:
    """Every adapter takes 100 bytes; what is in `damaged` cannot be loaded."""

    def __init__(self) -> None:
        self.held: dict[str, Resident] = {}
        self.damaged: set[str] = set()

    def load(self, term: ResolvedTerm) -> Resident:
        if term.full_name in self.damaged:
            raise Corrupt(f"adapter {term.full_name} cannot be loaded", field="adapter")
        known = self.held.pop(term.digest, None)
        names = dict.fromkeys([*(known.names if known else ()), term.full_name])
        self.held[term.digest] = Resident(
            digest=term.digest,
            names=tuple(names),
            method=term.method,
            registered_bytes=100,
            in_slot=True,
            slot_bytes=10,
            pinned=known.pinned if known else False,
            rows_in_use=0,
            last_used_at=time.time(),
        )
        return self.held[term.digest]

    def unload(self, *digests: str) -> dict[str, int]:
        held = [digest for digest in digests if digest in self.held]
        if any(self.held[digest].pinned for digest in held):
            raise Conflict("it is pinned", field="adapter", remedy="unpin it first")
        return {digest: self.held.pop(digest).registered_bytes for digest in held}

    def pin(self, term: ResolvedTerm) -> Resident:
        self.held[term.digest] = replace(self.load(term), pinned=True)
        return self.held[term.digest]

    def unpin(self, digest: str) -> Resident | None:
        if digest not in self.held:
            return None
        self.held[digest] = replace(self.held[digest], pinned=False)
        return self.held[digest]

    def residents(self) -> list[Resident]:
        return list(self.held.values())[::-1]

    def names(self) -> list[str]:
        return [name for resident in self.residents() for name in resident.names]


class Parts:
    """An administration and what it stands on."""

    def __init__(self, world: World) -> None:
        self.catalog = Catalog(world.store, world.backbone.digest)
        self.cache = RememberingCache()
        self.pool = ThreadPoolExecutor(1)
        self.announced: list[str | None] = []
        self.watcher = Watcher(
            self.catalog,
            load=self._load,
            announce=lambda plan: self.announced.append(plan.named),
            changes=Changes(world.store),
            compare=lambda changed: None,
            every_s=0.01,
            stall_s=60,
            pool=self.pool,
        )
        self.admin = Admin(
            store=world.store,
            catalog=self.catalog,
            cache=self.cache,
            watcher=self.watcher,
            registered_budget=1000,
            slot_budget=50,
        )

    def _load(self, plan: Plan) -> None:
        for term in plan.resolved.terms():
            self.cache.load(term)

    def resolved(self, text: str, task: str = "shapes") -> str:
        return str(self.catalog.plan(task, parse_route(text), extrapolate=False).resolved)


def refused(
    error: type[CorollaError], field: str | None, call: object, *words: object, **options: object
) -> str:
    with pytest.raises(error) as caught:
        call(*words, **options)  # type: ignore[operator]
    assert caught.value.field == field, str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def states(admin: Admin, task: str = "", *, resident_only: bool = False) -> dict[str, AdapterState]:
    listing = admin.adapters(task, resident_only=resident_only)
    return {state.name: state for state in listing.adapters}
