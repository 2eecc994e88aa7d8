"""The bank: the adapters that are registered, in memory, bounded by bytes, by digest.

Each is loaded once, however many requests ask for it at the same time, and verified before it is used.
The least recently used go when the bytes run out; a request that holds one keeps it alive until it is
answered, so nothing is ever reused under a running batch. Blocking: called in the pool.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Protocol

from model_store.loading import Loader, adapter_bytes, models
from model_store.resolution import ResolvedRoute, ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model
from petl_vit.errors import InvalidInput


class BankMetrics(Protocol):
    """What the bank reports; see `serving.metrics`."""

    def set_registered(self, adapters: int, size: int) -> None: ...


class Bank:
    """Adapters in memory.

    Args:
        loader: Loads and verifies one.
        max_bytes: What they may take together.
        metrics: Where their number and bytes go.
    """

    def __init__(self, loader: Loader, *, max_bytes: int, metrics: BankMetrics) -> None:
        self._loader, self._max_bytes, self._metrics = loader, max_bytes, metrics
        self._lock = threading.Lock()
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._loading: dict[str, Future[Adapter]] = {}
        self._bytes = 0

    def models(self, resolved: ResolvedRoute) -> tuple[Model, ...]:
        """The runnable members of a route, loading what is not in memory.

        Raises:
            Corrupt: An adapter's files are damaged or foreign; the others are not harmed.
            InvalidInput: One adapter alone is larger than the bank, or the terms of a member do not fit.
        """
        adapters = {term.digest: self._adapter(term) for term in resolved.terms()}
        return models(resolved.members, adapters)

    def _adapter(self, term: ResolvedTerm) -> Adapter:
        with self._lock:
            if term.digest in self._adapters:
                self._adapters.move_to_end(term.digest)
                return self._adapters[term.digest]
            ours = term.digest not in self._loading
            future = self._loading.setdefault(term.digest, Future())
        if ours:
            self._load(term, future)
        return future.result()

    def _load(self, term: ResolvedTerm, future: "Future[Adapter]") -> None:
        try:
            adapter = self._loader.adapter(term)
            self._keep(term, adapter)
            future.set_result(adapter)
        except Exception as error:
            future.set_exception(error)
        finally:
            with self._lock:
                del self._loading[term.digest]

    def _keep(self, term: ResolvedTerm, adapter: Adapter) -> None:
        size = adapter_bytes(adapter)
        if size > self._max_bytes:
            raise InvalidInput(
                f"adapter {term.full_name} takes {size:,} bytes, the bank has {self._max_bytes:,}",
                field="bank-bytes",
                remedy="start the server with a larger --bank-bytes",
            )
        with self._lock:
            while self._bytes + size > self._max_bytes:
                _, dropped = self._adapters.popitem(last=False)
                self._bytes -= adapter_bytes(dropped)
            self._adapters[term.digest] = adapter
            self._bytes += size
            self._metrics.set_registered(len(self._adapters), self._bytes)
