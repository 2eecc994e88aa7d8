import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from petl_vit.errors import Draining, Expired, InvalidInput, Overloaded
from serving.batcher import Batcher, Done
from tests.serving.world import WAIT_S


class Gauge:
    """What a batcher reported."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.waits: list[float] = []

    def queued(self, seconds: float) -> None:
        self.waits.append(seconds)

    def set_queue_rows(self, rows: int) -> None:
        self.rows.append(rows)


class FakeEngine:
    """Doubles numbers; waits in its thread where a job says so."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.busy = threading.Event()
        self.release = threading.Event()

    def run(self, jobs: Sequence[Any]) -> list[Any]:
        self.batches.append(list(jobs))
        if "wait" in jobs:
            self.busy.set()
            assert self.release.wait(WAIT_S)
        if "broken" in jobs:
            raise RuntimeError("the batch broke")
        return [InvalidInput("this row is bad") if job == "bad" else job * 2 for job in jobs]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


@pytest.fixture
async def batcher(engine: FakeEngine, gauge: Gauge) -> AsyncIterator[Batcher[Any, Any]]:
    with ThreadPoolExecutor(1) as executor:
        made: Batcher[Any, Any] = Batcher(
            engine.run, executor=executor, max_batch_rows=4, max_queue_rows=6, metrics=gauge
        )
        made.start()
        yield made
        engine.release.set()
        await made.drain(WAIT_S)


Submitted = asyncio.Task[list[Done[Any] | BaseException]]


def submit(batcher: Batcher[Any, Any], *jobs: Any, rows: int = 1, deadline: float | None = None) -> Submitted:
    return asyncio.create_task(batcher.submit([(job, rows) for job in jobs], deadline=deadline))


async def occupied(batcher: Batcher[Any, Any], engine: FakeEngine) -> Submitted:
    """Keeps the engine busy with one job, until `engine.release`."""
    task = submit(batcher, "wait")
    assert await asyncio.to_thread(engine.busy.wait, WAIT_S)
    return task


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def results(task: Submitted) -> list[Any]:
    outcomes = await asyncio.wait_for(task, WAIT_S)
    return [outcome.result if isinstance(outcome, Done) else outcome for outcome in outcomes]


async def test_it_runs_at_once_when_the_engine_is_idle(
    batcher: Batcher[Any, Any], engine: FakeEngine
) -> None:
    assert await results(submit(batcher, 1)) == [2]
    assert await results(submit(batcher, 5)) == [10]

    assert engine.batches == [[1], [5]]


async def test_it_gathers_while_the_engine_is_busy(batcher: Batcher[Any, Any], engine: FakeEngine) -> None:
    first = await occupied(batcher, engine)
    second, third = submit(batcher, 1, 2), submit(batcher, 3)
    await settle()
    assert engine.batches == [["wait"]]
    engine.release.set()

    assert await results(second) == [2, 4]
    assert await results(third) == [6]
    assert await results(first) == ["waitwait"]
    assert engine.batches == [["wait"], [1, 2, 3]]


async def test_a_batch_takes_jobs_in_order_and_no_more_rows_than_fit(
    batcher: Batcher[Any, Any], engine: FakeEngine
) -> None:
    first = await occupied(batcher, engine)
    tasks = [submit(batcher, 1, rows=3), submit(batcher, 2, rows=2), submit(batcher, 3, rows=1)]
    await settle()
    engine.release.set()

    assert [await results(task) for task in [first, *tasks]] == [["waitwait"], [2], [4], [6]]
    assert engine.batches == [["wait"], [1], [2, 3]]


async def test_a_job_larger_than_a_batch_runs_alone(batcher: Batcher[Any, Any], engine: FakeEngine) -> None:
    first = await occupied(batcher, engine)
    large, small = submit(batcher, 1, rows=5), submit(batcher, 2)
    await settle()
    engine.release.set()

    assert [await results(task) for task in (first, large, small)] == [["waitwait"], [2], [4]]
    assert engine.batches == [["wait"], [1], [2]]


async def test_the_future_travels_on_the_item(batcher: Batcher[Any, Any], engine: FakeEngine) -> None:
    """Equal jobs of several callers each get the answer of their own place in the batch."""
    first = await occupied(batcher, engine)
    same = [submit(batcher, 7) for _ in range(4)]
    await settle()
    engine.release.set()
    await first

    assert [await results(task) for task in same] == [[14]] * 4
    assert engine.batches[1] == [7, 7, 7, 7]
    assert not [name for name, value in vars(batcher).items() if isinstance(value, dict)]


async def test_done_is_checked_before_a_result_is_set(batcher: Batcher[Any, Any], engine: FakeEngine) -> None:
    """A caller that goes while its job runs leaves a done future behind, which no result may touch."""
    first = await occupied(batcher, engine)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    engine.release.set()

    assert await results(submit(batcher, 1)) == [2]


async def test_a_cancelled_caller_never_harms_its_neighbours(
    batcher: Batcher[Any, Any], engine: FakeEngine
) -> None:
    first = await occupied(batcher, engine)
    gone, stays = submit(batcher, 1, 2), submit(batcher, 3)
    await settle()
    gone.cancel()
    await settle()
    engine.release.set()

    assert await results(stays) == [6]
    assert await results(first) == ["waitwait"]
    assert gone.cancelled()
    assert engine.batches == [["wait"], [3]], "a cancelled job takes no place in a forward"


async def test_full_means_refuse_now_and_queue_none_of_it(
    batcher: Batcher[Any, Any], engine: FakeEngine, gauge: Gauge
) -> None:
    first = await occupied(batcher, engine)
    waiting = submit(batcher, 1, rows=5)
    await settle()

    with pytest.raises(Overloaded, match="5 rows wait and 2 more do not fit in 6") as caught:
        await batcher.submit([(2, 1), (3, 1)])
    assert caught.value.remedy is not None
    assert gauge.rows[-1] == 5

    fits = submit(batcher, 4)
    await settle()
    engine.release.set()
    assert [await results(task) for task in (first, waiting, fits)] == [["waitwait"], [2], [8]]


async def test_a_job_that_expires_in_the_queue_is_dropped_before_the_run(
    batcher: Batcher[Any, Any], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await occupied(batcher, engine)
    late = submit(batcher, 1, deadline=time.monotonic() + 50)
    patient = submit(batcher, 2, deadline=time.monotonic() + 500)
    await settle()
    now = time.monotonic
    monkeypatch.setattr("serving.batcher.time.monotonic", lambda: now() + 100)
    engine.release.set()

    (expired,) = await results(late)
    assert isinstance(expired, Expired)
    assert await results(patient) == [4]
    await first
    assert engine.batches == [["wait"], [2]]


async def test_a_deadline_that_has_passed_is_refused_at_the_door(
    batcher: Batcher[Any, Any], engine: FakeEngine
) -> None:
    with pytest.raises(Expired):
        await batcher.submit([(1, 1)], deadline=time.monotonic() - 1)

    assert engine.batches == []


async def test_a_failing_row_fails_alone(batcher: Batcher[Any, Any], engine: FakeEngine) -> None:
    first = await occupied(batcher, engine)
    one, bad, broken = submit(batcher, 1), submit(batcher, "bad"), submit(batcher, "broken")
    await settle()
    engine.release.set()
    await first

    assert await results(one) == [2]
    (error,) = await results(bad)
    assert isinstance(error, InvalidInput)
    (crash,) = await results(broken)
    assert isinstance(crash, RuntimeError)
    assert engine.batches[1:] == [[1, "bad", "broken"], [1], ["bad"], ["broken"]]
    assert await results(submit(batcher, 3)) == [6], "the batcher goes on"


async def test_draining_finishes_what_is_queued_and_takes_no_more(
    batcher: Batcher[Any, Any], engine: FakeEngine
) -> None:
    first, queued = await occupied(batcher, engine), submit(batcher, 1)
    await settle()
    draining = asyncio.create_task(batcher.drain(WAIT_S))
    await settle()

    with pytest.raises(Draining):
        await batcher.submit([(2, 1)])
    assert not draining.done()
    engine.release.set()

    assert await draining is True
    assert await results(first) == ["waitwait"]
    assert await results(queued) == [2]


async def test_draining_is_bounded_and_says_so_to_those_who_wait(
    batcher: Batcher[Any, Any], engine: FakeEngine, gauge: Gauge
) -> None:
    running, queued = await occupied(batcher, engine), submit(batcher, 1)
    await settle()

    assert await batcher.drain(0.01) is False

    for task in (running, queued):
        (error,) = await results(task)
        assert isinstance(error, Draining)
    assert gauge.rows[-1] == 0


async def test_the_queue_gauge_follows_every_row_in_and_out(
    batcher: Batcher[Any, Any], engine: FakeEngine, gauge: Gauge
) -> None:
    first = await occupied(batcher, engine)
    assert gauge.rows == [1, 0]
    tasks = [submit(batcher, 1, rows=2), submit(batcher, 2, rows=3)]
    await settle()
    assert gauge.rows[2:] == [2, 5]
    assert batcher.oldest_age_s > 0
    engine.release.set()
    await asyncio.gather(first, *tasks)

    assert gauge.rows[-1] == 0
    assert min(gauge.rows) == 0
    assert batcher.oldest_age_s == 0
    assert len(gauge.waits) == 3


async def test_a_cancelled_caller_frees_its_place_in_the_queue_at_once(
    batcher: Batcher[Any, Any], engine: FakeEngine, gauge: Gauge
) -> None:
    first = await occupied(batcher, engine)
    gone = submit(batcher, 1, rows=6)
    await settle()
    gone.cancel()
    await settle()

    assert gauge.rows[-1] == 0
    stays = submit(batcher, 2, rows=6)
    await settle()
    engine.release.set()
    assert await results(stays) == [4]
    await first


async def test_a_request_without_jobs_has_no_answers(batcher: Batcher[Any, Any]) -> None:
    assert await asyncio.wait_for(batcher.submit([]), WAIT_S) == []


async def test_a_result_says_how_long_it_waited_and_ran(
    batcher: Batcher[Any, Any], engine: FakeEngine
) -> None:
    first = await occupied(batcher, engine)
    second = submit(batcher, 1)
    await settle()
    engine.release.set()
    (ran,), (waited,) = await first, await second

    assert isinstance(ran, Done)
    assert isinstance(waited, Done)
    assert ran.run_s > 0
    assert waited.queue_s > 0
