"""Adapters registered in host memory, by digest, bounded by bytes; and which of them are in a slot.

Each is loaded once, however many requests ask for it at the same time, in threads of its own, so that
other traffic goes on; and verified before it is used. The least recently used are evicted when the bytes run
out, but never one that a request uses, nor a pinned one. Names play no part: an adapter is its digest.
Blocking.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

from model_store.format.records import Manifest
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model
from petl_vit.errors import Conflict, InvalidInput, NotFound, Overloaded
from petl_vit.slots import Slots
from serving.registry.entry import Coming, Entry
from serving.registry.lease import Lease, NoRoom
from serving.registry.preloads import Preloads
from serving.registry.resident import Resident

_LOADING_THREADS = 2


class AdapterCacheMetrics(Protocol):
    """What the adapter cache reports; see `serving.metrics.events`."""

    def set_registered(self, adapters: int, size: int) -> None: ...

    def set_slots(self, adapters: int, size: int) -> None: ...

    def adapter_loaded(self, seconds: float) -> None: ...

    def adapter_evicted(self) -> None: ...


class AdapterSource(Protocol):
    """Loads adapters and verifies them (`model_store.resolution.loading`)."""

    def adapter(self, term: ResolvedTerm) -> Adapter:
        """The adapter, ready to run; see `Loader.adapter`."""

    def check_same(self, term: ResolvedTerm, known: Manifest) -> None:
        """Checks a version that says it has the digest of another; see `Loader.check_same`."""


class AdapterCache:
    """Adapters in host memory.

    Args:
        loader: Loads and verifies one.
        slots: Where the engine takes them from.
        max_bytes: What they may take together.
        metrics: Where their number and bytes go.
        busy: Whether anybody waits for answers; `load` and `pin` pause between adapters then.
        outdated: Whether an adapter is to be loaded once more, as it is served in another form since.
        difference: How far bf16 moves an adapter's logits, by digest; None where nobody knows.
    """

    def __init__(
        self,
        loader: AdapterSource,
        *,
        slots: Slots,
        max_bytes: int,
        metrics: AdapterCacheMetrics,
        busy: Callable[[], bool] = lambda: False,
        outdated: Callable[[Adapter], bool] = lambda adapter: False,
        difference: Callable[[str], float | None] = lambda digest: None,
    ) -> None:
        self._loader, self._slots, self._metrics = loader, slots, metrics
        self._outdated, self._difference = outdated, difference
        self.max_bytes = max_bytes
        self.preloads = Preloads(busy)
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._leases: Counter[str] = Counter()
        self._unloaded: dict[str, Entry] = {}  # not listed any more, but still leased
        self._loading: dict[str, Coming] = {}
        self._pool = ThreadPoolExecutor(_LOADING_THREADS, thread_name_prefix="loading")
        self._bytes = 0
        slots.only(self._entries.__contains__)

    # For requests

    @contextmanager
    def lease(self, resolved: ResolvedRoute) -> Iterator[Lease]:
        """A route's adapters, kept in memory while the context lasts; what is missing begins to load."""
        terms = list(resolved.terms())
        with self._lease({term.digest for term in terms}):
            loading = {term.digest: self._adapter(term) for term in terms}
            yield Lease(resolved, loading, lambda nbytes: self._check_size("the route", nbytes))

    def models(self, resolved: ResolvedRoute) -> tuple[Model, ...]:
        """The runnable members of a route, loading what is not in memory; waits for them."""
        with self.lease(resolved) as lease:
            return lease.models()

    def leases(self, digest: str) -> int:
        """How many requests use an adapter, loaded or not."""
        return self._leases[digest]

    @contextmanager
    def _lease(self, digests: set[str]) -> Iterator[None]:
        with self._lock:
            self._leases.update(digests)
        try:
            yield
        finally:
            with self._lock:
                self._release(digests)

    def _release(self, digests: set[str]) -> None:
        self._leases.subtract(digests)
        for digest in digests:
            if self._leases[digest] <= 0:
                del self._leases[digest]
                if (entry := self._unloaded.pop(digest, None)) is not None:
                    self._bytes -= entry.adapter.nbytes
        self._report()

    # For people

    def load(self, term: ResolvedTerm) -> Resident:
        """Loads an adapter, and gives it a slot where one is free, before any request asks for it.

        Raises:
            Corrupt, InvalidInput, Overloaded: See `Lease.models`.
        """
        self._preload(term)
        with self._loaded(term) as entry:
            with suppress(Overloaded):  # all slots are in use right now; its first request finds a free one
                self._slots.enter(entry.adapter)
            return self._resident(term.digest, entry)

    def pin(self, term: ResolvedTerm) -> Resident:
        """Loads an adapter and keeps it in memory and in a slot.

        Raises:
            Corrupt, InvalidInput, Overloaded: See `Lease.models`.
        """
        self._preload(term)
        with self._loaded(term) as entry:
            self._slots.pin(entry.adapter)
            entry.pinned = True
            return self._resident(term.digest, entry)

    def unpin(self, digest: str) -> Resident | None:
        """Lets an adapter be evicted again when memory runs out; None where it is not in memory."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return None
            entry.pinned = False
            self._slots.unpin(digest)
            return self._resident(digest, entry)

    def unload(self, *digests: str) -> dict[str, int]:
        """Frees the memory of adapters, each once the requests that use it are answered: of all or of none.

        Returns:
            The bytes of each that was in memory, by digest.

        Raises:
            Conflict: One of them is pinned; none is unloaded.
        """
        with self._lock:
            entries = {digest: self._entries[digest] for digest in digests if digest in self._entries}
            pinned = sorted(_name(entry) for entry in entries.values() if entry.pinned)
            if pinned:
                what = f"{pinned[0]} is" if len(pinned) == 1 else f"{' and '.join(pinned)} are"
                raise Conflict(f"{what} pinned", field="adapter", remedy="unpin it first")
            for digest in entries:
                self._drop(digest)
            return {digest: entry.adapter.nbytes for digest, entry in entries.items()}

    def residents(self) -> list[Resident]:
        """What is in memory, the most recently used first."""
        with self._lock:
            digests = list(reversed(self._entries))
            return [self._resident(digest, self._entries[digest]) for digest in digests]

    @property
    def nbytes(self) -> int:
        """Host memory that adapters take now, unloaded ones that requests still use included."""
        return self._bytes

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # For the check of bf16

    def exchange(self, adapter: Adapter) -> None:
        """Puts another form of an adapter into the place of the one in memory, if it is there still.

        Requests that use the earlier form are answered with it.
        """
        with self._lock:
            entry = self._entries.get(adapter.digest)
            if entry is not None:
                self._bytes += adapter.nbytes - entry.adapter.nbytes
                entry.adapter = adapter
                self._report()

    def withdraw(self, digest: str) -> None:
        """Removes an adapter from memory, pinned or not; requests that use it are answered with it."""
        with self._lock:
            if digest in self._entries:
                self._drop(digest)
            if (entry := self._unloaded.pop(digest, None)) is not None:  # or the next request would have it
                self._bytes -= entry.adapter.nbytes

    # Loading

    def _preload(self, term: ResolvedTerm) -> None:
        """Loads what no request waits for, in its turn."""
        if self._is_coming(term.digest):
            return
        with self.preloads.turn(), self._loaded(term):
            pass

    def _is_coming(self, digest: str) -> bool:
        """Whether an adapter is in memory or on its way there."""
        with self._lock:
            return digest in self._entries or digest in self._unloaded or digest in self._loading

    @contextmanager
    def _loaded(self, term: ResolvedTerm) -> Iterator[Entry]:
        """An adapter's entry, which stays as it is while the context lasts."""
        with self._lease({term.digest}):
            self._adapter(term).result()
            with self._lock:
                yield self._entry(term.digest)

    def _adapter(self, term: ResolvedTerm) -> "Future[Adapter]":
        with self._lock:
            entry = self._entries.get(term.digest)
            if entry is None and (entry := self._unloaded.pop(term.digest, None)) is not None:
                self._entries[term.digest] = entry  # asked for again before it was gone
            if entry is None:
                return self._load_once(term)
            if not entry.is_of(term.manifest):
                return self._pool.submit(self._check_same, term)
            self._touch(term, entry)
        ready: Future[Adapter] = Future()
        ready.set_result(entry.adapter)
        return ready

    def _load_once(self, term: ResolvedTerm) -> "Future[Adapter]":
        coming = self._loading.get(term.digest)
        if coming is None:
            future = self._pool.submit(self._load, term)
            self._loading[term.digest] = Coming(manifest=term.manifest, future=future)
            return future
        if coming.manifest is term.manifest or coming.manifest == term.manifest:
            return coming.future
        return self._pool.submit(self._check_same, term, coming.future)

    def _check_same(self, term: ResolvedTerm, coming: "Future[Adapter] | None" = None) -> Adapter:
        """The adapter in memory for another version that says it is the same, once that is checked."""
        if coming is not None:
            coming.result()  # it was submitted before, so that a thread has it
        with self._lock:
            entry = self._entries.get(term.digest)
        if entry is None or not entry.manifests or term.manifest is None:
            return self._loader.adapter(term)  # withdrawn meanwhile
        self._loader.check_same(term, entry.manifests[0])
        with self._lock:
            entry.manifests.append(term.manifest)
            self._touch(term, entry)
        return entry.adapter

    def _load(self, term: ResolvedTerm) -> Adapter:
        started = time.monotonic()
        try:
            adapter = self._loader.adapter(term)
            while not self._registered(term, adapter):
                adapter = self._loader.adapter(term)
            self._metrics.adapter_loaded(time.monotonic() - started)
            return adapter
        finally:
            with self._lock:
                del self._loading[term.digest]

    def _registered(self, term: ResolvedTerm, adapter: Adapter) -> bool:
        """Takes a loaded adapter into memory, unless it became outdated while it was loaded."""
        with self._lock:  # as `exchange` and `withdraw`, which find it either here or outdated
            if self._outdated(adapter):
                return False
            self._check_size(f"adapter {term.full_name}", adapter.nbytes)
            for digest in self._victims(term, adapter.nbytes):
                self._drop(digest)
                self._metrics.adapter_evicted()
            entry = self._entries[adapter.digest] = Entry(
                adapter=adapter, manifests=[term.manifest] if term.manifest else []
            )
            self._bytes += adapter.nbytes
            self._touch(term, entry)
            self._report()
            return True

    def _check_size(self, what: str, nbytes: int) -> None:
        """Refuses what can never fit."""
        if nbytes > self.max_bytes:
            raise InvalidInput(
                f"{what} takes {nbytes:,} bytes, the adapter cache has {self.max_bytes:,}",
                field="host_bytes",
                remedy="start the server with a larger --host-bytes",
            )

    def _victims(self, term: ResolvedTerm, nbytes: int) -> list[str]:
        """What makes room for an adapter, the least recently used first; nothing where not enough can."""
        digests, excess = [], self._bytes + nbytes - self.max_bytes
        for digest, entry in self._entries.items():
            if excess <= 0:
                break
            if not entry.pinned and digest not in self._leases:
                digests.append(digest)
                excess -= entry.adapter.nbytes
        if excess > 0:
            raise NoRoom(
                f"no memory for {term.full_name}: {nbytes:,} bytes, and the {self.max_bytes:,} of the "
                "adapter cache are pinned or in use",
                field="host_bytes",
                remedy="retry after a pause, unpin adapters, or start the server with a larger --host-bytes",
                nbytes=nbytes,
            )
        return digests

    def _drop(self, digest: str) -> None:
        entry = self._entries.pop(digest)
        if digest in self._leases:
            self._unloaded[digest] = entry
        else:
            self._bytes -= entry.adapter.nbytes
        self._slots.leave(digest)
        self._report()

    def _touch(self, term: ResolvedTerm, entry: Entry) -> None:
        self._entries.move_to_end(term.digest)
        entry.names.add(term.full_name)
        entry.last_used_at = time.time()

    def _entry(self, digest: str) -> Entry:
        entry = self._entries.get(digest)
        if entry is None:
            raise NotFound(f"adapter {digest[:12]} is not in memory", field="adapter", remedy="load it first")
        return entry

    def _resident(self, digest: str, entry: Entry) -> Resident:
        return Resident(
            digest=digest,
            names=tuple(sorted(entry.names)),
            method=entry.adapter.method.name,
            registered_bytes=entry.adapter.nbytes,
            in_slot=digest in self._slots,
            slot_bytes=self._slots.bytes_of(digest),
            pinned=entry.pinned,
            rows_in_use=self._leases[digest],
            last_used_at=entry.last_used_at,
            exact=entry.adapter.exact_on is not None,
            bf16_difference=self._difference(digest),
        )

    def _report(self) -> None:
        self._metrics.set_registered(len(self._entries), self._bytes)
        self._metrics.set_slots(len(self._slots), self._slots.nbytes)


def _name(entry: Entry) -> str:
    return min(entry.names, default=entry.adapter.digest[:12])
