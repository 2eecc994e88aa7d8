"""A `Service` inside another program: no ports, and its event loop in a separate thread.

For runtimes that own the process and its protocol, and call from a thread of theirs.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from petl_vit.errors import Draining
from serving.access.caller import ANYONE, Caller, calling
from serving.answer.classifier import Classifier
from serving.metrics.events import Metrics
from serving.request import Request, Response
from serving.service import Service
from serving.settings import Settings

_log = logging.getLogger(__name__)

T = TypeVar("T")

Question = tuple[Request, Callable[[Response], T]]
"""A request, and the function from its response to its protocol's answer."""


class Embedded:
    """Answers requests of the surrounding program; warm once constructed.

    Args:
        settings: Those of a server; its ports are ignored.

    Raises:
        CorollaError: See `serving.service.Service`.
    """

    def __init__(self, settings: Settings) -> None:
        self._service = Service(settings)
        _log.info("%s", self._service.threads_text)
        self._ready: Future[tuple[asyncio.AbstractEventLoop, Classifier, asyncio.Event]] = Future()
        # A daemon: a runtime that ends its process does not ask first.
        self._thread = Thread(target=self._run, name="embedded", daemon=True)
        self._thread.start()
        self._loop, self._classifier, self._stopping = self._ready.result()

    @property
    def registry(self) -> CollectorRegistry:
        """All metrics."""
        return self._service.metrics.registry

    @property
    def metrics(self) -> Metrics:
        """Where they are counted."""
        return self._service.metrics

    def answer(
        self, questions: Sequence[Question[T]], callers: Sequence[Caller] | None = None
    ) -> list[T | BaseException]:
        """The answers to requests that arrived together, so that they share batches; waits for all.

        A failed request has its error as its answer, and the others are not affected.

        Args:
            callers: Who asks each of them; None is anyone, who may ask for all.

        Raises:
            Draining: It is closed.
        """

        async def one(classifier: Classifier, question: Question[T], caller: Caller) -> T:
            with calling(caller):
                return await classifier.classify(*question)

        async def together(classifier: Classifier) -> list[T | BaseException]:
            asking = zip(questions, callers or [ANYONE] * len(questions), strict=True)
            answers = (one(classifier, question, caller) for question, caller in asking)
            return await asyncio.gather(*answers, return_exceptions=True)

        return self.run(together)

    def run(self, work: Callable[[Classifier], Coroutine[Any, Any, T]]) -> T:
        """Runs work with the classifier on the event loop, and waits for it.

        Work whose waiting is interrupted, as by Ctrl-C, is cancelled.

        Raises:
            Draining: It is closed.
            Exception: What the work raised.
        """
        if not self._thread.is_alive():
            raise Draining("it is closed")
        future = asyncio.run_coroutine_threadsafe(work(self._classifier), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def follow(self) -> None:
        """Follows the store's names now: what was changed before is what later requests see. Blocks."""
        self._service.watcher.follow()

    def close(self) -> None:
        """Finishes what is queued, for as long as the settings allow, and ends the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _live(self) -> None:
        stopping = asyncio.Event()
        async with self._service.running() as classifier:
            self._ready.set_result((asyncio.get_running_loop(), classifier, stopping))
            await stopping.wait()
