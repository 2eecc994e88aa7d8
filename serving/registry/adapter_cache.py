"""Adapters registered in host memory, bounded by bytes, by digest; and which of them are in a slot.

Each is loaded once, however many requests ask for it at the same time, in threads of its own, so that no
other traffic waits; and verified before it is used. The least recently used go when the bytes run out, but
never one that a request holds, nor a pinned one. Names play no part: an adapter is its digest. Blocking.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from model_store.resolution.loading import models
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model
from petl_vit.errors import Conflict, InvalidInput, NotFound, Overloaded
from petl_vit.slots import Slots

_LOADING_THREADS = 2
_REST_TIMES, _LONGEST_REST_S = 5.0, 1.0
"""How long loads ahead of need pause after one, in times of what it took."""


class AdapterCacheMetrics(Protocol):
    """What the adapter cache reports; see `serving.metrics.events`."""

    def set_registered(self, adapters: int, size: int) -> None: ...

    def set_slots(self, adapters: int, size: int) -> None: ...

    def adapter_loaded(self, seconds: float) -> None: ...

    def adapter_evicted(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Resident:
    """An adapter in memory.

    Attributes:
        names: Every `task/name:version` that it was asked for by.
        registered_bytes: Host memory; slot_bytes: device memory, on a CPU the same bytes.
        rows_in_use: Requests that hold it now.
        last_used_at: Seconds since the epoch.
        exact: Whether it is served in fp32 since bf16 changes its answers too much.
        bf16_difference: How far bf16 moves its logits, relative to the largest; None where nobody compared.
    """

    digest: str
    names: tuple[str, ...]
    method: str
    registered_bytes: int
    in_slot: bool
    slot_bytes: int
    pinned: bool
    rows_in_use: int
    last_used_at: float
    exact: bool = False
    bf16_difference: float | None = None


@dataclass(eq=False, kw_only=True)
class _Entry:
    adapter: Adapter
    names: set[str] = field(default_factory=set)
    pinned: bool = False
    last_used_at: float = 0.0


class AdapterSource(Protocol):
    """Loads adapters and verifies them (`model_store.resolution.loading`)."""

    def adapter(self, term: ResolvedTerm) -> Adapter:
        """The adapter, ready to run; see `Loader.adapter`."""


class NoRoom(Overloaded):
    """Memory has no room for an adapter now.

    Attributes:
        size: The bytes that it takes.
    """

    def __init__(self, problem: str, *, field: str, remedy: str, size: int) -> None:
        super().__init__(problem, field=field, remedy=remedy)
        self.size = size


class Held:
    """The adapters of one request, loaded or loading.

    Args:
        check: Raises InvalidInput where so many bytes can never fit.

    Attributes:
        loading: By digest; not to be cancelled, as other requests may wait for the same.
    """

    def __init__(
        self, resolved: ResolvedRoute, loading: "dict[str, Future[Adapter]]", check: Callable[[int], None]
    ) -> None:
        self._resolved, self.loading, self._check = resolved, loading, check

    def models(self) -> tuple[Model, ...]:
        """The runnable members of the route; waits for what is loading.

        Raises:
            Corrupt: An adapter's files are damaged or foreign; the others are not harmed.
            InvalidInput: The adapters are larger than the adapter cache, or the terms of a member do not fit.
            NoRoom: All memory is held by other requests or pinned.
        """
        adapters, refused = dict[str, Adapter](), list[NoRoom]()
        for digest, future in self.loading.items():
            try:
                adapters[digest] = future.result()
            except NoRoom as error:
                refused.append(error)
        if refused:
            self._check(sum(a.nbytes for a in adapters.values()) + sum(error.size for error in refused))
            raise refused[0]
        return models(self._resolved.members, adapters)


class AdapterCache:
    """Adapters in host memory.

    Args:
        loader: Loads and verifies one.
        slots: Where the engine takes them from.
        max_bytes: What they may take together.
        metrics: Where their number and bytes go.
        busy: Whether anybody waits for answers; `load` and `pin` pause between adapters then.
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
        difference: Callable[[str], float | None] = lambda digest: None,
    ) -> None:
        self._loader, self._slots, self._metrics, self._busy = loader, slots, metrics, busy
        self._difference = difference
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._unloaded: dict[str, _Entry] = {}  # no longer listed, but still held
        self._loading: dict[str, Future[Adapter]] = {}
        self._pool = ThreadPoolExecutor(_LOADING_THREADS, thread_name_prefix="loading")
        self._ahead, self._rested_at = threading.Lock(), 0.0
        self._bytes = 0
        slots.only(self._entries.__contains__)

    # For requests

    @contextmanager
    def holding(self, resolved: ResolvedRoute) -> "Iterator[Held]":
        """A route's adapters, kept in memory while the context lasts; what is missing begins to load."""
        terms = list(resolved.terms())
        with self._hold({term.digest for term in terms}):
            loading = {term.digest: self._adapter(term) for term in terms}
            yield Held(resolved, loading, lambda size: self._check_size("the route", size))

    def models(self, resolved: ResolvedRoute) -> tuple[Model, ...]:
        """The runnable members of a route, loading what is not in memory; waits for them."""
        with self.holding(resolved) as held:
            return held.models()

    @contextmanager
    def _hold(self, digests: set[str]) -> Iterator[None]:
        with self._lock:
            self._held.update(digests)
        try:
            yield
        finally:
            with self._lock:
                self._release(digests)

    def _release(self, digests: set[str]) -> None:
        self._held.subtract(digests)
        for digest in digests:
            if self._held[digest] <= 0:
                del self._held[digest]
                if (entry := self._unloaded.pop(digest, None)) is not None:
                    self._bytes -= entry.adapter.nbytes
        self._report()

    # For people

    def load(self, term: ResolvedTerm) -> Resident:
        """Loads an adapter, and gives it a slot where one is free, ahead of its first request.

        Raises:
            Corrupt, InvalidInput, Overloaded: See `Held.models`.
        """
        self._load_ahead(term)
        with self._loaded(term) as entry:
            with suppress(Overloaded):  # all slots are in use right now; its first request finds one
                self._slots.enter(entry.adapter)
            return self._resident_of(term.digest, entry)

    def pin(self, term: ResolvedTerm) -> Resident:
        """Loads an adapter and keeps it in memory and in a slot.

        Raises:
            Corrupt, InvalidInput, Overloaded: See `Held.models`.
        """
        self._load_ahead(term)
        with self._loaded(term) as entry:
            self._slots.pin(entry.adapter)
            entry.pinned = True
            return self._resident_of(term.digest, entry)

    def unpin(self, digest: str) -> Resident:
        """Lets an adapter go again when memory runs out.

        Raises:
            NotFound: It is not in memory.
        """
        with self._lock:
            entry = self._known(digest)
            entry.pinned = False
            self._slots.unpin(digest)
            return self._resident_of(digest, entry)

    def unload(self, digest: str) -> int:
        """Frees an adapter's memory, once the requests that hold it are answered; returns its bytes.

        Raises:
            NotFound: It is not in memory.
            Conflict: It is pinned.
        """
        with self._lock:
            entry = self._known(digest)
            if entry.pinned:
                raise Conflict(f"{_name(entry)} is pinned", field="adapter", remedy="unpin it first")
            self._drop(digest)
            return entry.adapter.nbytes

    def residents(self) -> list[Resident]:
        """What is in memory, the most recently used first."""
        with self._lock:
            digests = list(reversed(self._entries))
            return [self._resident_of(digest, self._entries[digest]) for digest in digests]

    @property
    def nbytes(self) -> int:
        """Host memory that adapters take now, unloaded ones that requests still hold included."""
        return self._bytes

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # For the check of bf16

    def exchange(self, adapter: Adapter) -> None:
        """Takes another form of an adapter into the place of the one in memory, if it is there still.

        Requests that hold the earlier form are answered with it.
        """
        with self._lock:
            entry = self._entries.get(adapter.digest)
            if entry is not None:
                self._bytes += adapter.nbytes - entry.adapter.nbytes
                entry.adapter = adapter
                self._report()

    def withdraw(self, digest: str) -> None:
        """Lets go of an adapter, pinned or not; requests that hold it are answered with it."""
        with self._lock:
            if digest in self._entries:
                self._drop(digest)
            if (entry := self._unloaded.pop(digest, None)) is not None:  # or the next request would have it
                self._bytes -= entry.adapter.nbytes

    # Loading

    def _load_ahead(self, term: ResolvedTerm) -> None:
        """Loads what no request waits for: one at a time, with pauses while answers are waited for.

        A load takes as much of Python as a small forward does; without pauses, many take a third of the pace.
        """
        if self._is_coming(term.digest):
            return
        with self._ahead:
            while (left := self._rested_at - time.monotonic()) > 0 and self._busy():
                time.sleep(min(left, 0.01))
            started = time.monotonic()
            try:
                with self._loaded(term):
                    pass
            finally:
                over = time.monotonic()
                self._rested_at = over + min(_REST_TIMES * (over - started), _LONGEST_REST_S)

    def _is_coming(self, digest: str) -> bool:
        """Whether an adapter is in memory or on its way there."""
        with self._lock:
            return digest in self._entries or digest in self._unloaded or digest in self._loading

    @contextmanager
    def _loaded(self, term: ResolvedTerm) -> Iterator[_Entry]:
        """An adapter's entry, which stays as it is while the context lasts."""
        with self._hold({term.digest}):
            self._adapter(term).result()
            with self._lock:
                yield self._known(term.digest)

    def _adapter(self, term: ResolvedTerm) -> "Future[Adapter]":
        with self._lock:
            entry = self._entries.get(term.digest)
            if entry is None and (entry := self._unloaded.pop(term.digest, None)) is not None:
                self._entries[term.digest] = entry  # asked for again before it was gone
            if entry is None:
                return self._load_once(term)
            self._touch(term, entry)
        ready: Future[Adapter] = Future()
        ready.set_result(entry.adapter)
        return ready

    def _load_once(self, term: ResolvedTerm) -> "Future[Adapter]":
        future = self._loading.get(term.digest)
        if future is None:
            future = self._loading[term.digest] = self._pool.submit(self._load, term)
        return future

    def _load(self, term: ResolvedTerm) -> Adapter:
        started = time.monotonic()
        try:
            adapter = self._loader.adapter(term)
            with self._lock:
                self._keep(term, adapter)
            self._metrics.adapter_loaded(time.monotonic() - started)
            return adapter
        finally:
            with self._lock:
                del self._loading[term.digest]

    def _keep(self, term: ResolvedTerm, adapter: Adapter) -> None:
        size = adapter.nbytes
        self._check_size(f"adapter {term.full_name}", size)
        for digest in self._victims(term, size):
            self._drop(digest)
            self._metrics.adapter_evicted()
        entry = self._entries[adapter.digest] = _Entry(adapter=adapter)
        self._bytes += size
        self._touch(term, entry)
        self._report()

    def _check_size(self, what: str, size: int) -> None:
        """Refuses what can never fit."""
        if size > self.max_bytes:
            raise InvalidInput(
                f"{what} takes {size:,} bytes, the adapter cache has {self.max_bytes:,}",
                field="host-bytes",
                remedy="start the server with a larger --host-bytes",
            )

    def _victims(self, term: ResolvedTerm, size: int) -> list[str]:
        """What makes room for an adapter, the least recently used first; nothing goes in vain."""
        found, excess = [], self._bytes + size - self.max_bytes
        for digest, entry in self._entries.items():
            if excess <= 0:
                break
            if not entry.pinned and digest not in self._held:
                found.append(digest)
                excess -= entry.adapter.nbytes
        if excess > 0:
            raise NoRoom(
                f"no memory for {term.full_name}: {size:,} bytes, and the {self.max_bytes:,} of the adapter "
                "cache are pinned or in use",
                field="host-bytes",
                remedy="retry after a pause, unpin adapters, or start the server with a larger --host-bytes",
                size=size,
            )
        return found

    def _drop(self, digest: str) -> None:
        entry = self._entries.pop(digest)
        if digest in self._held:
            self._unloaded[digest] = entry
        else:
            self._bytes -= entry.adapter.nbytes
        self._slots.leave(digest)
        self._report()

    def _touch(self, term: ResolvedTerm, entry: _Entry) -> None:
        self._entries.move_to_end(term.digest)
        entry.names.add(term.full_name)
        entry.last_used_at = time.time()

    def _known(self, digest: str) -> _Entry:
        entry = self._entries.get(digest)
        if entry is None:
            raise NotFound(f"adapter {digest[:12]} is not in memory", field="adapter", remedy="load it first")
        return entry

    def _resident_of(self, digest: str, entry: _Entry) -> Resident:
        return Resident(
            digest=digest,
            names=tuple(sorted(entry.names)),
            method=entry.adapter.method.name,
            registered_bytes=entry.adapter.nbytes,
            in_slot=digest in self._slots,
            slot_bytes=self._slots.bytes_of(digest),
            pinned=entry.pinned,
            rows_in_use=self._held[digest],
            last_used_at=entry.last_used_at,
            exact=entry.adapter.exact_on is not None,
            bf16_difference=self._difference(digest),
        )

    def _report(self) -> None:
        self._metrics.set_registered(len(self._entries), self._bytes)
        self._metrics.set_slots(len(self._slots), self._slots.nbytes)


def _name(entry: _Entry) -> str:
    return min(entry.names, default=entry.adapter.digest[:12])
