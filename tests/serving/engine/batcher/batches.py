import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from petl_vit.errors import InvalidInput
from serving.engine.batcher import Batcher, Done

WAIT_S = 300.0
"""How long a test waits for what happens at once, before it fails."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gauge:
    """What a batcher reported."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.sizes: list[int] = []
        self.waits: list[float] = []
        self.dropped_for: Counter[str] = Counter()

    def queued(self, seconds: float) -> None:
        self.waits.append(seconds)

    def set_queue_rows(self, rows: int) -> None:
        self.rows.append(rows)

    def set_queue_bytes(self, size: int) -> None:
        self.sizes.append(size)

    def dropped(self, reason: str) -> None:
        self.dropped_for[reason] += 1


@dataclass(frozen=True, kw_only=True)
class Job:
    value: Any
    rows: int
    nbytes: int


class FakeEngine:
    """Doubles the values of its jobs; waits in its thread where a job says so, and takes `seconds` for a job.

    Attributes:
        stepping: Whether every batch waits.
    """

    def __init__(self, clock: Clock) -> None:
        self.batches: list[list[Any]] = []
        self.busy = threading.Event()
        self.permits = threading.Semaphore(0)
        self.stepping = False
        self.seconds = 0.0
        self._clock = clock

    def run(self, batch: Sequence[Job]) -> list[Any]:
        jobs = [job.value for job in batch]
        self.batches.append(jobs)
        if self.stepping or "wait" in jobs:
            self.busy.set()
            assert self.permits.acquire(timeout=WAIT_S)
        self._clock.now += self.seconds * len(jobs)
        if "broken" in jobs:
            raise RuntimeError("the batch broke")
        if "huge" in jobs:
            raise MemoryError
        if "short" in jobs:
            return []
        return [InvalidInput("this row is bad") if job == "bad" else job * 2 for job in jobs]


Submitted = asyncio.Task[list[Done[Any] | BaseException]]


class World:
    """A batcher over a fake engine and a fake clock."""

    def __init__(self, executor: ThreadPoolExecutor, **limits: Any) -> None:
        self.clock, self.gauge = Clock(), Gauge()
        self.engine = FakeEngine(self.clock)
        chosen = {"max_batch_rows": 4, "max_queue_rows": 6, "max_queue_bytes": 1000} | limits
        self.batcher: Batcher[Job, Any] = Batcher(
            self.engine.run, executor=executor, metrics=self.gauge, clock=self.clock, **chosen
        )

    def submit(
        self,
        *jobs: Any,
        rows: int = 1,
        size: int = 0,
        flow: str = "",
        within: float | None = None,
        **who: Any,
    ) -> Submitted:
        weighed = [Job(value=job, rows=rows, nbytes=size) for job in jobs]
        deadline = None if within is None else self.clock.now + within
        return asyncio.create_task(self.batcher.submit(weighed, flow=flow, deadline=deadline, **who))

    async def queue(self, *jobs: Any, **options: Any) -> Submitted:
        """Submits, and sees the work in the queue or refused."""
        task = self.submit(*jobs, **options)
        await settle()
        return task

    async def occupied(self) -> Submitted:
        """Keeps the engine busy with one job, until `release`."""
        while self.engine.permits.acquire(blocking=False):
            pass
        self.engine.busy.clear()
        task = self.submit("wait", client="holder")
        assert await asyncio.to_thread(self.engine.busy.wait, WAIT_S)
        return task

    def release(self) -> None:
        """Lets the batch that waits go on."""
        self.engine.permits.release()

    async def step(self) -> None:
        """Goes on to the next batch that waits."""
        self.engine.busy.clear()
        self.release()
        assert await asyncio.to_thread(self.engine.busy.wait, WAIT_S)

    async def finish(self, *tasks: Submitted) -> list[list[Any]]:
        """Releases the engine; what became of the tasks."""
        self.engine.stepping = False
        self.release()
        return [await results(task) for task in tasks]

    @property
    def served(self) -> list[Any]:
        """Jobs in the order they ran, without those that kept the engine busy."""
        return [job for batch in self.engine.batches for job in batch if job != "wait"]


@asynccontextmanager
async def world_of(**limits: int) -> AsyncIterator[World]:
    with ThreadPoolExecutor(1) as executor:
        made = World(executor, **limits)
        made.batcher.start()
        yield made
        made.engine.stepping = False
        made.engine.permits.release(100)
        await made.batcher.drain(WAIT_S)


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def results(task: Submitted) -> list[Any]:
    outcomes = await asyncio.wait_for(task, WAIT_S)
    return [outcome.result if isinstance(outcome, Done) else outcome for outcome in outcomes]
