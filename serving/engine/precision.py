"""Whether bf16 changes an adapter's answers: each is compared with fp32 once it is loaded.

A server compares what it answers by name before it starts; every other adapter is compared in the
background, one after the other, with pauses while answers are waited for. One whose logits change too much
is served in fp32 from then on, or refused. The backbone in fp32 is in memory while adapters are compared,
and stays where one is served in it.
"""

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

from model_store.format.records import Manifest
from model_store.resolution.loading import Loader
from model_store.resolution.precision import TOLERANCE, Subject, difference
from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model, Term
from petl_vit.device import one_thread
from petl_vit.errors import CorollaError, Unsupported
from serving import process

_log = logging.getLogger(__name__)

Fallback = Literal["fp32", "refuse"]

_PAUSE_TIMES, _LONGEST_PAUSE_S = 5.0, 10.0
"""After a comparison, pause this multiple of its duration, at most so many seconds, while answers are due."""
_GATHER_S = 2.0
"""How long adapters gather before they are compared: the backbone in fp32 is loaded once for all of them."""


class CheckMetrics(Protocol):
    """What a comparison reports; see `serving.metrics.events`."""

    def precision_checked(self, result: str, difference: float | None) -> None: ...


class Adapters(Protocol):
    """Where adapters are in memory (`serving.registry.adapter_cache`)."""

    def exchange(self, adapter: Adapter) -> None:
        """Puts another form of an adapter into the place of the one in memory, if it is there still."""

    def withdraw(self, digest: str) -> None:
        """Removes an adapter from memory, pinned or not."""


class PrecisionCheck:
    """Loads adapters in bf16, and compares each with fp32 once.

    Args:
        fast: The loader of what is served.
        fallback: What becomes of an adapter that bf16 changes too much.
        metrics: Where the results go.
        busy: Whether anybody waits for answers.
    """

    def __init__(
        self,
        fast: Loader,
        *,
        fallback: Fallback,
        metrics: CheckMetrics,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._fast, self._fallback, self._metrics, self._busy = fast, fallback, metrics, busy
        self._differences: dict[str, float] = {}
        self._beyond: set[str] = set()
        self._exact: Loader | None = None
        self._waiting: queue.SimpleQueue[ResolvedTerm | None] = queue.SimpleQueue()
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._adapters: Adapters | None = None

    @property
    def holds_exact(self) -> bool:
        """Whether the backbone in fp32 is in memory."""
        return self._exact is not None

    def start(self, adapters: Adapters) -> None:
        """Begins to compare what is loaded and what has been.

        Args:
            adapters: Where an adapter is exchanged that bf16 changes too much.
        """
        self._adapters = adapters
        self._thread = threading.Thread(target=self._run, name="precision", daemon=True)
        self._thread.start()

    def adapter(self, term: ResolvedTerm) -> Adapter:
        """The adapter as it is to be served, verified; it is compared in the background if it was not yet.

        Raises:
            Corrupt: Its file, digest, config, tensor names or shapes are wrong.
            Unsupported: bf16 changes its answers too much, and it is not to be served in fp32.
        """
        if term.digest in self._beyond:
            return self._exact_form(term)
        adapter = self._fast.adapter(term)
        if term.digest not in self._differences:
            self._waiting.put(term)
        return adapter

    def check_same(self, term: ResolvedTerm, known: Manifest) -> None:
        """Checks a version that says it has the digest of another; see `Loader.check_same`."""
        self._fast.check_same(term, known)

    def outdated(self, adapter: Adapter) -> bool:
        """Whether an adapter is in bf16 that was found to need fp32 since it was loaded."""
        return adapter.digest in self._beyond and adapter.exact_on is None

    def difference(self, digest: str) -> float | None:
        """How far bf16 moves an adapter's logits, relative to the largest; None where it was not compared."""
        return self._differences.get(digest)

    def close(self) -> None:
        """Ends after the comparison that runs."""
        self._closing.set()
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (term := self._waiting.get()) is not None:
            if self._closing.wait(_GATHER_S):
                return
            while term is not None and not self._closing.is_set():
                if term.digest not in self._differences:
                    self._try(term)
                try:
                    term = self._waiting.get_nowait()
                except queue.Empty:
                    break
            if term is None or self._closing.is_set():
                return
            self._release()

    def _try(self, term: ResolvedTerm) -> None:
        started = time.monotonic()
        try:
            self._compare(term)
        except Exception as error:  # the adapter is served as before, and the next one compared
            expected = isinstance(error, CorollaError)
            _log.warning("%s is not compared with fp32: %s", term.full_name, error, exc_info=not expected)
            self._metrics.precision_checked("failed", None)
        self._pause(time.monotonic() - started)

    def _release(self) -> None:
        """Frees the backbone in fp32 where nothing is served in it."""
        if not self._beyond:
            self._exact = None
            gc.collect()  # after `settle`, full collections come late
            process.give_back()

    def _pause(self, duration_s: float) -> None:
        end = time.monotonic() + min(_PAUSE_TIMES * duration_s, _LONGEST_PAUSE_S)
        while self._busy() and (left := end - time.monotonic()) > 0:
            if self._closing.wait(min(left, 0.05)):
                return

    def _compare(self, term: ResolvedTerm) -> None:
        subject = Subject(
            name=term.full_name,
            image_size=term.task.spec.preprocess.image_size,
            models=lambda loader: [Model([Term(adapter=loader.adapter(term))])],
        )
        with one_thread(True):
            moved = self._differences[term.digest] = difference(subject, self._exact_loader(), self._fast)
        self._metrics.precision_checked("within" if moved <= TOLERANCE else "beyond", moved)
        if moved > TOLERANCE:
            self._beyond.add(term.digest)  # before `_replace`, so that no load in between keeps bf16
            self._replace(term, moved)

    def _replace(self, term: ResolvedTerm, moved: float) -> None:
        """Exchanges or withdraws an adapter that is in memory, as the fallback says."""
        assert self._adapters is not None, "comparisons begin with `start`"
        served = "served in fp32" if self._fallback == "fp32" else "refused"
        _log.warning("bf16 changes logits of %s by %.1f %%: it is %s", term.full_name, 100 * moved, served)
        if self._fallback == "fp32":
            self._adapters.exchange(self._exact_form(term))
        else:
            self._adapters.withdraw(term.digest)

    def _exact_form(self, term: ResolvedTerm) -> Adapter:
        if self._fallback == "refuse":
            raise Unsupported(
                f"bf16 changes logits of {term.full_name} by {self._differences[term.digest]:.1%} of the "
                f"largest one; accepted are {TOLERANCE:.0%}",
                field="adapter",
                remedy="start the server with --bf16-fallback fp32 or --precision fp32",
            )
        exact = self._exact_loader()
        return replace(exact.adapter(term), exact_on=exact.vit(term.task.spec.preprocess.image_size))

    def _exact_loader(self) -> Loader:
        with self._lock:
            if self._exact is None:
                self._exact = Loader(self._fast.store, self._fast.record, device=self._fast.device)
            return self._exact
