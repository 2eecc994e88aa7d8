"""The batcher: rows of all requests in one queue, as many as fit in one forward at a time.

Work-conserving: it runs at once when the engine is idle and gathers while it is busy; there is no
timer. It knows work and its weight in rows; it knows neither gRPC nor tensors. Everything here runs on
the event loop; the work itself runs in the engine's one thread.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from petl_vit.errors import Draining, Expired, Overloaded

Job = TypeVar("Job")
Result = TypeVar("Result")


class BatcherMetrics(Protocol):
    """What the batcher reports; see `serving.metrics`."""

    def queued(self, seconds: float) -> None: ...

    def set_queue_rows(self, rows: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Done(Generic[Result]):
    """A result with the times it took, in seconds."""

    result: Result
    queue_s: float
    run_s: float


@dataclass(eq=False, kw_only=True)
class _Item(Generic[Job, Result]):
    """A job on its way; the future travels with it."""

    job: Job
    rows: int
    deadline: float | None  # time.monotonic()
    future: "asyncio.Future[Done[Result]]"
    arrived: float = field(default_factory=time.monotonic)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def succeed(self, done: Done[Result]) -> None:
        if not self.future.done():
            self.future.set_result(done)


class Batcher(Generic[Job, Result]):
    """Queues jobs and runs them in batches.

    Args:
        run: Runs jobs in the executor, one result or exception for each, in order.
        executor: The engine's thread.
        max_batch_rows: Rows of one batch; a single larger job still runs, alone.
        max_queue_rows: Rows that may wait; more are refused at once.
        metrics: Where queue times and length go.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        *,
        executor: Executor,
        max_batch_rows: int,
        max_queue_rows: int,
        metrics: BatcherMetrics,
    ) -> None:
        self._run = run
        self._executor = executor
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._metrics = metrics
        self._queue: deque[_Item[Job, Result]] = deque()
        self._running: list[_Item[Job, Result]] = []
        self._queued_rows = 0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._task: asyncio.Task[None] | None = None

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest waiting job has waited, seconds; 0 when none waits."""
        return time.monotonic() - self._queue[0].arrived if self._queue else 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._serve(), name="batcher")

    async def submit(
        self, jobs: Sequence[tuple[Job, int]], *, deadline: float | None = None
    ) -> list[Done[Result] | BaseException]:
        """Runs jobs, each given with its number of rows, and waits for all of them.

        Cancelling the caller cancels its jobs that still wait and no others. A job's own failure is
        returned in its place.

        Raises:
            Overloaded: The queue has no room for all of them; none was queued.
            Expired: The deadline (time.monotonic()) has passed already.
            Draining: The batcher is stopping.
        """
        self._admit(sum(rows for _, rows in jobs), deadline)
        loop = asyncio.get_running_loop()
        items = [
            _Item[Job, Result](job=job, rows=rows, deadline=deadline, future=loop.create_future())
            for job, rows in jobs
        ]
        self._queue.extend(items)
        self._change_queued(sum(item.rows for item in items))
        self._idle.clear()
        self._arrived.set()
        try:
            return await asyncio.gather(*(item.future for item in items), return_exceptions=True)
        except asyncio.CancelledError:
            self._drop_cancelled()
            raise

    def _admit(self, rows: int, deadline: float | None) -> None:
        if self._draining:
            raise Draining("the server is stopping", remedy="send the request to another replica")
        if deadline is not None and deadline <= time.monotonic():
            raise Expired("the deadline has passed before the work began", remedy="allow more time")
        if self._queued_rows + rows > self._max_queue_rows:
            raise Overloaded(
                f"{self._queued_rows} rows wait and {rows} more do not fit in {self._max_queue_rows}",
                field="queue",
                remedy="retry after a pause, or send fewer images or members at once",
            )

    async def drain(self, timeout_s: float) -> bool:
        """Takes no more work, waits for what is queued, stops. Returns whether all of it was done."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
            finished = True
        except TimeoutError:
            finished = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for item in (*self._running, *self._queue):
            item.fail(Draining("the server stopped before the work was done"))
        self._queue.clear()
        self._change_queued(-self._queued_rows)
        self._idle.set()
        return finished

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            self._running = self._take()
            if self._running:
                await self._run_batch(self._running)
            if not self._queue:
                self._arrived.clear()
                self._idle.set()

    def _take(self) -> list[_Item[Job, Result]]:
        """The next batch, in order of arrival; expired and cancelled jobs are dropped on the way."""
        batch: list[_Item[Job, Result]] = []
        rows, now = 0, time.monotonic()
        while self._queue:
            item = self._queue[0]
            if not self._alive(item, now):
                self._dequeue()
            elif batch and rows + item.rows > self._max_batch_rows:
                break
            else:
                batch.append(self._dequeue())
                rows += item.rows
        return batch

    def _dequeue(self) -> _Item[Job, Result]:
        item = self._queue.popleft()
        self._change_queued(-item.rows)
        return item

    def _drop_cancelled(self) -> None:
        """Frees the places of callers that have gone."""
        self._queue = deque(item for item in self._queue if not item.future.cancelled())
        self._change_queued(sum(item.rows for item in self._queue) - self._queued_rows)

    def _change_queued(self, rows: int) -> None:
        self._queued_rows += rows
        self._metrics.set_queue_rows(self._queued_rows)

    @staticmethod
    def _alive(item: _Item[Job, Result], now: float) -> bool:
        if item.deadline is not None and item.deadline <= now:
            item.fail(Expired("the deadline passed while the request waited", remedy="allow more time"))
        return not item.future.done()

    async def _run_batch(self, batch: list[_Item[Job, Result]]) -> None:
        started = time.monotonic()
        for item in batch:
            self._metrics.queued(started - item.arrived)
        results = await self._results([item.job for item in batch])
        took = time.monotonic() - started
        for item, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                item.fail(result)
            else:
                item.succeed(Done(result=result, queue_s=started - item.arrived, run_s=took))

    async def _results(self, jobs: list[Job]) -> Sequence[Result | BaseException]:
        """Runs jobs together; if that fails, each alone, so that a failing one fails alone."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._run, jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
        alone: list[Any] = []
        for job in jobs:
            alone.extend(await self._results([job]))
        return alone
