"""The batcher: rows of all requests in one queue, as many as fit in one forward at a time.

Work-conserving: it runs at once when the engine is idle and gathers while it is busy; there is no
timer. What waits is served in fair shares, of priorities, of clients and of one client's flows
(docs/decisions/0006-fair-queue.md). It knows work and what it weighs; it knows neither gRPC nor tensors.
Everything here runs on the event loop; the work itself runs in the engine's one thread.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

from petl_vit.errors import Draining, Expired, Overloaded
from serving.engine.fair_queue import FairQueue

Job = TypeVar("Job")
Result = TypeVar("Result")


class Priority(IntEnum):
    """How much of a busy engine the work of one priority gets, beside that of the others."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


_WEIGHTS: dict[Hashable, float] = {Priority.LOW: 1.0, Priority.NORMAL: 4.0, Priority.HIGH: 16.0}
_MOST_TIMES_FREE = (64, 32, 16)
"""A priority, a client of it and a flow of that client may each hold so many times what they leave free."""


class BatcherMetrics(Protocol):
    """What the batcher reports; see `serving.metrics.events`."""

    def queued(self, seconds: float) -> None:
        """A work was taken from the queue to be run."""

    def set_queue_rows(self, rows: int) -> None: ...

    def set_queue_bytes(self, size: int) -> None: ...

    def dropped(self, reason: str) -> None:
        """A work is never run: expired, cancelled, unmeetable, full_rows or full_bytes."""


@dataclass(frozen=True, kw_only=True)
class Work(Generic[Job]):
    """A job and what it weighs.

    Attributes:
        rows: Rows of a forward, at least 1; it runs in one batch with all of them.
        size: Bytes that it keeps in memory while it waits.
        flow: What shares are fair about besides the client: the adapters it uses.
    """

    job: Job
    rows: int
    size: int
    flow: str

    def __post_init__(self) -> None:
        assert self.rows >= 1, "work without rows would cost nothing"
        assert self.size >= 0, "a size is a number of bytes"


@dataclass(frozen=True, kw_only=True)
class Done(Generic[Result]):
    """A result with the times it took, in seconds."""

    result: Result
    queue_s: float
    run_s: float


class QueueFull(Overloaded):
    """The queue has no room.

    Attributes:
        retry_after_s: When there may be room, from the measured pace; None when that is not known, or
            when there will never be room for so much at once.
    """

    def __init__(self, problem: str, *, remedy: str, retry_after_s: float | None) -> None:
        super().__init__(problem, field="queue", remedy=remedy)
        self.retry_after_s = retry_after_s


_Path = tuple[Priority, str, str]
"""Priority, client, flow."""


@dataclass(eq=False, kw_only=True)
class _Item(Generic[Job, Result]):
    """Work on its way; the future travels with it."""

    work: Work[Job]
    path: _Path
    deadline: float | None
    arrived: float
    future: "asyncio.Future[Done[Result]]"
    waiting: bool = True

    @property
    def rows(self) -> int:
        return self.work.rows

    @property
    def size(self) -> int:
        return self.work.size

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def succeed(self, done: Done[Result]) -> None:
        if not self.future.done():
            self.future.set_result(done)

    def lost(self, now: float) -> str | None:
        """Why nobody waits for the result any more; fails the work whose deadline has passed."""
        if self.future.done():
            return "cancelled"
        if self.deadline is not None and self.deadline <= now:
            self.fail(Expired("the deadline passed while the request waited", remedy="allow more time"))
            return "expired"
        return None


class Batcher(Generic[Job, Result]):
    """Queues work and runs it in batches.

    Args:
        run: Runs jobs in the executor, one result or exception for each, in order.
        executor: The engine's thread.
        max_batch_rows: Rows of one batch; a single larger work still runs, alone.
        max_queue_rows: Rows that may wait; more are refused at once.
        max_queue_bytes: Bytes that what waits may keep in memory; more are refused at once.
        metrics: Where queue times, length and losses go.
        clock: Seconds, monotonic; deadlines are told by it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        *,
        executor: Executor,
        max_batch_rows: int,
        max_queue_rows: int,
        max_queue_bytes: int,
        metrics: BatcherMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._executor = executor
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._max_queue_bytes = max_queue_bytes
        self._metrics = metrics
        self._clock = clock
        self._queue: FairQueue[_Item[Job, Result]] = FairQueue(_WEIGHTS)
        self._pace = _Pace()
        # All that is queued or running, in order of arrival.
        self._held: OrderedDict[_Item[Job, Result], None] = OrderedDict()
        self._running_rows, self._running_since = 0, 0.0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._task: asyncio.Task[None] | None = None

    @property
    def oldest_age_s(self) -> float:
        """Seconds since the oldest work that is queued or running arrived; 0 when there is none."""
        oldest = next(iter(self._held), None)
        return 0.0 if oldest is None else self._clock() - oldest.arrived

    @property
    def busy(self) -> bool:
        """Whether anything is queued or running; any thread may ask."""
        return bool(self._held)

    def start(self) -> None:
        self._task = asyncio.create_task(self._serve(), name="batcher")

    async def submit(
        self,
        works: Sequence[Work[Job]],
        *,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        client: str = "",
    ) -> list[Done[Result] | BaseException]:
        """Runs works and waits for all of them.

        Cancelling the caller cancels its works that still wait and no others. A work's own failure is
        returned in its place.

        Args:
            deadline: When the caller gives up, by the batcher's clock.
            client: Who asks; clients of one priority get equal shares of the engine.

        Raises:
            QueueFull: The queue has no room for all of them; none was queued.
            Expired: The deadline has passed, or what is served before would outlast it; none was queued.
            Draining: The batcher is stopping.
        """
        paths = [(priority, client, work.flow) for work in works]
        self._admit(works, set(paths), deadline)
        now, loop = self._clock(), asyncio.get_running_loop()
        items = [
            _Item[Job, Result](
                work=work, path=path, deadline=deadline, arrived=now, future=loop.create_future()
            )
            for work, path in zip(works, paths, strict=True)
        ]
        for item in items:
            self._queue.add(item.path, item)
            self._held[item] = None
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
        for item in self._held:
            item.fail(Draining("the server stopped before the work was done"))
            if item.waiting:
                self._leave(item, served=False)
        self._held.clear()
        self._report()
        self._idle.set()
        return finished

    # Admission

    def _admit(self, works: Sequence[Work[Job]], paths: set[_Path], deadline: float | None) -> None:
        if self._draining:
            raise Draining("the server is stopping", remedy="send the request to another replica")
        refusal = self._late(paths, deadline) or self._full(works, paths)
        if refusal is not None:
            reason, error = refusal
            for _ in works:
                self._metrics.dropped(reason)
            raise error

    def _late(self, paths: set[_Path], deadline: float | None) -> tuple[str, Expired] | None:
        """Refuses work that has expired, and work that will have when its turn comes."""
        if deadline is None:
            return None
        now = self._clock()
        left = deadline - now
        if left <= 0:
            remedy = "allow more time"
            return "expired", Expired("the deadline has passed before the work began", remedy=remedy)
        pace = self._pace.seconds_per_row
        ahead = max((self._queue.ahead(path) for path in paths), default=0) * pace
        running = max(0.0, self._running_rows * pace - (now - self._running_since))
        if ahead + running <= left:
            return None
        return "unmeetable", Expired(
            f"the deadline cannot be met: {ahead + running:.3g} s of work comes first, {left:.3g} s are left",
            remedy="allow more time, or send the request to another replica",
        )

    def _full(self, works: Sequence[Work[Job]], paths: set[_Path]) -> tuple[str, QueueFull] | None:
        rows, size = sum(work.rows for work in works), sum(work.size for work in works)
        for path in paths:
            queues = list(self._queue.along(path))
            held_rows, held_size = [queue.rows for queue in queues], [queue.size for queue in queues]
            if (excess := _excess(rows, held_rows, self._max_queue_rows)) > 0:
                return "full_rows", self._refusal("rows", rows, held_rows[0], self._max_queue_rows, excess)
            if (excess := _excess(size, held_size, self._max_queue_bytes)) > 0:
                return "full_bytes", self._refusal("bytes", size, held_size[0], self._max_queue_bytes, excess)
        return None

    def _refusal(self, unit: str, new: int, held: int, limit: int, excess: float) -> QueueFull:
        reserved = " beside what is kept for others" if held + new <= limit else ""
        fewer = "send fewer images or members at once"
        rows = 0.0 if new > limit else self._queue.rows * excess / held
        return QueueFull(
            f"{held} {unit} wait and {new} more do not fit in {limit}{reserved}",
            remedy=fewer if new > limit else f"retry after a pause, or {fewer}",
            retry_after_s=rows * self._pace.seconds_per_row or None,
        )

    # The queue

    def _take(self) -> list[_Item[Job, Result]]:
        """The next batch, in order of turns; what nobody waits for any more is dropped on the way."""
        batch: list[_Item[Job, Result]] = []
        rows, now = 0, self._clock()
        while (item := self._queue.head()) is not None:
            if reason := item.lost(now):
                self._drop(item, reason)
            elif batch and rows + item.rows > self._max_batch_rows:
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
        del self._held[item]
        self._metrics.dropped(reason)

    def _leave(self, item: _Item[Job, Result], *, served: bool) -> None:
        self._queue.remove(item.path, item, served=served)
        item.waiting = False

    def _report(self) -> None:
        self._metrics.set_queue_rows(self._queue.rows)
        self._metrics.set_queue_bytes(self._queue.size)

    # The engine

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            await self._run_next()  # which leaves nothing of the batch in memory while this waits again

    async def _run_next(self) -> None:
        batch = self._take()
        if batch:
            await self._run_batch(batch)
        for item in batch:
            del self._held[item]
        if not self._queue.rows:
            self._arrived.clear()
            self._idle.set()

    async def _run_batch(self, batch: Sequence[_Item[Job, Result]]) -> None:
        """Runs works together; if that fails, each alone, so that a failing one fails alone."""
        rows, started = sum(item.rows for item in batch), self._clock()
        full = self._is_full(rows)
        self._running_rows, self._running_since = rows, started
        try:
            results = await self._results([item.work.job for item in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].fail(error)
            else:
                await self._run_each(batch)
        else:
            took = self._clock() - started
            _deliver(batch, results, started, took)
            if not any(isinstance(result, Exception) for result in results):
                self._pace.measure(rows, took, full=full)
        finally:
            self._running_rows = 0

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
        return rows + (head.rows if head else 1) > self._max_batch_rows


def _deliver(
    batch: Sequence[_Item[Job, Result]], results: Sequence[Result | Exception], started: float, took: float
) -> None:
    for item, result in zip(batch, results, strict=True):
        if isinstance(result, Exception):
            item.fail(result)
        else:
            item.succeed(Done(result=result, queue_s=started - item.arrived, run_s=took))


def _excess(new: int, held: Sequence[int], limit: int) -> float:
    """How much must leave the queue before `new` more fit; 0 or less when they do.

    Near the limit, nobody may hold many times what is left to the others: so those who hold little find
    room in a queue that one client or one adapter fills.

    Args:
        held: What waits in all, and of the newcomer's priority, client and flow.
    """
    needed = [(own + new) / times for own, times in zip(held[1:], _MOST_TIMES_FREE, strict=False)]
    return max([new, *needed]) - (limit - held[0])


class _Pace:
    """Seconds per row of an engine that has enough to do; 0 until one batch was measured.

    An estimate from below, for it refuses work: any faster batch lowers it at once, only full ones (a
    small one is slow per row) raise it, and by a quarter at most, so that an outlier is soon forgotten.
    """

    def __init__(self) -> None:
        self.seconds_per_row = 0.0

    def measure(self, rows: int, seconds: float, *, full: bool) -> None:
        sample, known = seconds / rows, self.seconds_per_row
        if known and sample < known:
            self.seconds_per_row = sample
        elif full:
            self.seconds_per_row = min(sample, 1.25 * known) if known else sample
