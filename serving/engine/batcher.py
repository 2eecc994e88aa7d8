"""The batcher: jobs of all requests wait in one queue, and as many run together as fit in one forward.

Work-conserving: it runs at once when the engine is idle and gathers while it is busy; there is no
timer. What waits is served in fair shares, of priorities, principals, tasks, clients and flows
(docs/decisions/0006-fair-queue.md). It knows what jobs weigh; it knows neither gRPC nor tensors.
Everything here runs on the event loop; jobs run in the engine's one thread.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from petl_vit.errors import Draining, Expired
from serving import tracing
from serving.engine.admission import Admission
from serving.engine.fair_queue import FairQueue, Line, Party, Weighed
from serving.engine.pace import Pace
from serving.engine.priority import EVERYBODY, Path, Priority, path
from serving.tracing import Traced

Job = TypeVar("Job", bound=Weighed)
Result = TypeVar("Result")

EFFICIENT_ROWS = 8
"""On a CPU a row in a batch of so many takes 2 to 14 % longer than in one of 32: docs/performance.md."""

_accepted: ContextVar[bool] = ContextVar("accepted", default=False)


class BatcherMetrics(Protocol):
    """What the batcher reports; see `serving.metrics.events`."""

    def queued(self, seconds: float) -> None:
        """A job was taken from the queue to be run."""

    def set_queue_rows(self, rows: int) -> None: ...

    def set_queue_bytes(self, size: int) -> None: ...

    def dropped(self, reason: str) -> None:
        """A job is never run: expired, cancelled, unmeetable, full_rows or full_bytes."""


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
    nbytes: int
    path: Path
    deadline: float | None
    arrived: float
    future: "asyncio.Future[Done[Result]]"
    traced: Traced | None
    waiting: bool = True

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def succeed(self, done: Done[Result]) -> None:
        if not self.future.done():
            self.future.set_result(done)

    def lost(self, now: float) -> str | None:
        """Why nobody waits for the result any more; fails the job whose deadline has passed."""
        if self.future.done():
            return "cancelled"
        if self.deadline is not None and self.deadline <= now:
            self.fail(Expired("the deadline passed while the request waited", remedy="allow more time"))
            return "expired"
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class _Prepared:
    """What the images of one request will take in the queue once they are decoded."""

    rows: int
    nbytes: int


class Batcher(Generic[Job, Result]):
    """Queues jobs and runs them in batches.

    Args:
        run: Runs jobs in the executor, one result or exception for each, in order.
        executor: The engine's thread.
        max_batch_rows: Rows of one batch; a single larger job still runs, alone.
        max_batch_s: How long a batch of more than `EFFICIENT_ROWS` should take, by the measured pace. What
            arrives meanwhile waits that long, whoever it is from.
        max_queue_rows: Rows that may wait; more are refused at once.
        max_queue_bytes: Bytes that what waits may keep in memory; more are refused at once.
        metrics: Where queue times, length and losses go.
        fair: Whether parties share; else all is served in order of arrival, which benchmarks compare with.
        clock: Seconds, monotonic; deadlines are told by it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        *,
        executor: Executor,
        max_batch_rows: int,
        max_batch_s: float = math.inf,
        max_queue_rows: int,
        max_queue_bytes: int,
        metrics: BatcherMetrics,
        fair: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._executor = executor
        self._max_batch_rows, self._max_batch_s = max_batch_rows, max_batch_s
        self._metrics = metrics
        self._clock = clock
        self._queue: FairQueue[_Item[Job, Result]] | Line[_Item[Job, Result]]
        self._queue = FairQueue() if fair else Line()
        self._pace = Pace()
        self._admission = Admission(
            self._queue, self._pace, max_rows=max_queue_rows, max_bytes=max_queue_bytes
        )
        # What is being decoded for the queue has the same limits as the queue, and the same fair shares.
        self._preparing: FairQueue[_Prepared] | Line[_Prepared] = FairQueue() if fair else Line()
        self._before = Admission(
            self._preparing,
            self._pace,
            max_rows=max_queue_rows,
            max_bytes=max_queue_bytes,
            doing="are being decoded",
        )
        # All that is queued or running, in order of arrival.
        self._items: OrderedDict[_Item[Job, Result], None] = OrderedDict()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = self._stopped = False
        self._requests = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def oldest_age_s(self) -> float:
        """Seconds since the oldest job that is queued or running arrived; 0 when there is none."""
        oldest = next(iter(self._items), None)
        return 0.0 if oldest is None else self._clock() - oldest.arrived

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running; any thread may ask."""
        return bool(self._items)

    def __len__(self) -> int:
        """Works that are queued or running."""
        return len(self._items)

    def start(self) -> None:
        self._task = asyncio.create_task(self._serve(), name="batcher")

    async def submit(
        self,
        jobs: Sequence[Job],
        *,
        flow: str = "",
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        principal: Party = EVERYBODY,
        task: Party = EVERYBODY,
        client: str = "",
        later: bool = False,
    ) -> list[Done[Result] | BaseException]:
        """Runs jobs and waits for all of them.

        Cancelling the caller cancels its jobs that still wait and no others. A job's own failure is
        returned in its place.

        Args:
            flow: What shares are fair about besides the client: the adapters that the jobs use.
            deadline: When the caller gives up, by the batcher's clock.
            principal: Who was let in; those of one priority get shares of the engine by their weights.
            task: What is asked about; those of one principal get shares by their weights.
            client: Who asks, as they say; those of one task get equal shares.
            later: Whether these are a later round of jobs that were taken before, in `rounds`. They go before
                what else waits in their flow, and a full queue does not refuse them.

        Raises:
            Overloaded: The queue has no room for all of them; none was queued.
            Expired: The deadline has passed, or what is served before would outlast it; none was queued.
            Draining: The batcher is stopping, and the caller is not `accepted`.
        """
        if not jobs:
            return []
        place, now = path(priority, principal, task, client, flow), self._clock()
        self._admit(jobs, place, now, deadline, later=later)
        items = [self._item(job, place, now, deadline) for job in jobs]
        for item in reversed(items) if later else items:
            self._queue.add(place, item, first=later)
        self._items |= dict.fromkeys(items)
        self._report()
        self._idle.clear()
        self._arrived.set()
        try:
            return await asyncio.gather(*(item.future for item in items), return_exceptions=True)
        except asyncio.CancelledError:
            for item in items:
                if item.waiting:
                    self._drop(item, "cancelled")
            self._report()
            raise

    @contextmanager
    def preparing(
        self,
        images: int,
        *,
        rows: int,
        nbytes: int,
        flow: str = "",
        priority: Priority = Priority.NORMAL,
        principal: Party = EVERYBODY,
        task: Party = EVERYBODY,
        client: str = "",
    ) -> Iterator[None]:
        """Images are decoded in this block that are submitted after it.

        Args:
            rows, nbytes: What all of them will take in the queue.
            flow, priority, principal, task, client: As in `submit`.

        Raises:
            Overloaded: So much is being decoded that it would not fit into the queue.
        """
        place = path(priority, principal, task, client, flow)
        refusal = self._before.full(place, rows, nbytes)
        if refusal is not None:
            for _ in range(images):
                self._metrics.dropped(refusal.reason)
            raise refusal.error
        item = _Prepared(rows=rows, nbytes=nbytes)
        self._preparing.add(place, item)
        try:
            yield
        finally:
            self._preparing.remove(place, item, served=False)

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """What is submitted in this block is part of one request: a drain waits for its end.

        A block within another is part of it. Tasks that are begun in the block belong to it.

        Raises:
            Draining: The batcher is stopping.
        """
        if _accepted.get():
            yield
            return
        if self._draining:
            raise _draining()
        token = _accepted.set(True)
        self._requests += 1
        try:
            yield
        finally:
            _accepted.reset(token)
            self._requests -= 1
            self._rest()

    async def drain(self, timeout_s: float) -> bool:
        """Accepts no more requests, finishes those under way, stops. Returns whether all were done."""
        self._draining = True
        self._idle.clear()
        self._rest()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
            finished = True
        except TimeoutError:
            finished = False
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for item in self._items:
            item.fail(Draining("the server stopped before the work was done"))
            if item.waiting:
                self._leave(item, served=False)
        self._items.clear()
        self._report()
        self._idle.set()
        return finished

    def _admit(
        self, jobs: Sequence[Job], place: Path, now: float, deadline: float | None, *, later: bool
    ) -> None:
        assert all(job.rows >= 1 for job in jobs), "a job without rows would cost nothing"
        if self._stopped or (self._draining and not _accepted.get()):
            raise _draining()
        if later:
            refusal = self._admission.refusal_of_more(now=now, deadline=deadline)
        else:
            rows, nbytes = sum(job.rows for job in jobs), sum(job.nbytes for job in jobs)
            refusal = self._admission.refusal(place, rows, nbytes, now=now, deadline=deadline)
        if refusal is not None:
            for _ in jobs:
                self._metrics.dropped(refusal.reason)
            raise refusal.error

    # The queue

    @staticmethod
    def _item(job: Job, place: Path, now: float, deadline: float | None) -> _Item[Job, Result]:
        return _Item[Job, Result](
            job=job,
            rows=job.rows,
            nbytes=job.nbytes,
            path=place,
            deadline=deadline,
            arrived=now,
            future=asyncio.get_running_loop().create_future(),
            traced=tracing.current(),
        )

    def _take(self) -> list[_Item[Job, Result]]:
        """The next batch, in order of turns; what nobody waits for any more is dropped on the way."""
        batch: list[_Item[Job, Result]] = []
        rows, most, now = 0, self._most_rows(), self._clock()
        while (item := self._queue.head()) is not None:
            if reason := item.lost(now):
                self._drop(item, reason)
            elif batch and rows + item.rows > most:
                break
            else:
                self._leave(item, served=True)
                self._metrics.queued(now - item.arrived)
                batch.append(item)
                rows += item.rows
        self._report()
        return batch

    def _drop(self, item: _Item[Job, Result], reason: str) -> None:
        self._leave(item, served=False)
        del self._items[item]
        self._metrics.dropped(reason)

    def _leave(self, item: _Item[Job, Result], *, served: bool) -> None:
        self._queue.remove(item.path, item, served=served)
        item.waiting = False

    def _report(self) -> None:
        self._metrics.set_queue_rows(self._queue.rows)
        self._metrics.set_queue_bytes(self._queue.nbytes)

    # The engine

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            await self._run_next()  # its own frame: while this waits, no batch stays in memory

    async def _run_next(self) -> None:
        batch = self._take()
        if batch:
            await self._run_batch(batch)
        for item in batch:
            del self._items[item]
        if not self._queue.rows:
            self._arrived.clear()
            self._rest()

    def _rest(self) -> None:
        """Is idle, where nothing waits or runs and no request is under way."""
        if not self._items and not self._requests:
            self._idle.set()

    async def _run_batch(self, batch: Sequence[_Item[Job, Result]]) -> None:
        """Runs jobs together; if that fails, each alone, so that a failing one fails alone."""
        rows, started = sum(item.rows for item in batch), self._clock()
        # The first that is large enough tells the pace; later ones raise it where no more rows fit.
        full = self._is_full(rows) or (rows >= EFFICIENT_ROWS and not self._pace.seconds_per_row)
        self._pace.begin(rows, started)
        try:
            results = await self._results([item.job for item in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].fail(error)
            else:
                await self._run_each(batch)
        else:
            run_s = self._clock() - started
            _deliver(batch, results, started, run_s)
            waited = [(item.traced, item.arrived) for item in batch]
            tracing.batch_ran(waited, started=started, seconds=run_s, rows=rows)
            if not any(isinstance(result, Exception) for result in results):
                self._pace.measure(rows, run_s, full=full)
        finally:
            self._pace.end()

    async def _run_each(self, batch: Sequence[_Item[Job, Result]]) -> None:
        for item in batch:
            if reason := item.lost(self._clock()):
                self._metrics.dropped(reason)
            else:
                await self._run_batch([item])

    async def _results(self, jobs: list[Job]) -> Sequence[Result | Exception]:
        results = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, jobs)
        assert len(results) == len(jobs), "the engine answers every job"
        return results

    def _is_full(self, rows: int) -> bool:
        """Whether what waits does not fit beside so many rows."""
        head = self._queue.head()
        return rows + (head.rows if head else 1) > self._most_rows()

    def _most_rows(self) -> int:
        """Rows that a batch may have now; before one was measured, as many as any may have."""
        a_row = self._pace.seconds_per_row
        if self._max_batch_rows * a_row <= self._max_batch_s:
            return self._max_batch_rows
        return min(self._max_batch_rows, max(EFFICIENT_ROWS, int(self._max_batch_s / a_row)))


def _draining() -> Draining:
    return Draining("the server is stopping", remedy="send the request to another replica")


def _deliver(
    batch: Sequence[_Item[Job, Result]], results: Sequence[Result | Exception], started: float, run_s: float
) -> None:
    for item, result in zip(batch, results, strict=True):
        if isinstance(result, Exception):
            item.fail(result)
        else:
            item.succeed(Done(result=result, queue_s=started - item.arrived, run_s=run_s))
