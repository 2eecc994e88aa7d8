import asyncio
import gc
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petl_vit.errors import Draining, Expired, InvalidInput, Overloaded
from serving.engine import fair_queue
from serving.engine.batcher import Batcher, Done
from serving.engine.priority import Priority

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

    def __init__(self, executor: ThreadPoolExecutor, **limits: int) -> None:
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


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of() as made:
        yield made


@pytest.fixture
async def wide() -> AsyncIterator[World]:
    """With a long queue."""
    async with world_of(max_queue_rows=1000, max_queue_bytes=10**6) as made:
        yield made


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def results(task: Submitted) -> list[Any]:
    outcomes = await asyncio.wait_for(task, WAIT_S)
    return [outcome.result if isinstance(outcome, Done) else outcome for outcome in outcomes]


# Batches


async def test_it_runs_at_once_when_the_engine_is_idle(world: World) -> None:
    assert await results(world.submit(1)) == [2]
    assert await results(world.submit(5)) == [10]

    assert world.engine.batches == [[1], [5]]


async def test_it_gathers_rows_of_all_requests_while_the_engine_is_busy(world: World) -> None:
    first = await world.occupied()
    second = await world.queue(1, 2, client="a", flow="x")
    third = await world.queue(3, client="b", flow="y")
    assert world.engine.batches == [["wait"]]

    assert await world.finish(first, second, third) == [["waitwait"], [2, 4], [6]]
    assert [sorted(batch) for batch in world.engine.batches[1:]] == [[1, 2, 3]]


async def test_a_batch_has_no_more_rows_than_fit(world: World) -> None:
    first = await world.occupied()
    tasks = [world.submit(1, rows=3), world.submit(2, rows=2), world.submit(3, rows=1)]
    await settle()

    assert await world.finish(first, *tasks) == [["waitwait"], [2], [4], [6]]
    assert world.engine.batches == [["wait"], [1], [2, 3]]


async def test_a_work_larger_than_a_batch_runs_alone(world: World) -> None:
    first = await world.occupied()
    large, small = world.submit(1, rows=5), world.submit(2)
    await settle()

    assert await world.finish(first, large, small) == [["waitwait"], [2], [4]]
    assert world.engine.batches == [["wait"], [1], [2]]


async def test_the_future_travels_on_the_item(world: World) -> None:
    """Equal jobs of several callers each get the answer of their own place in the batch."""
    first = await world.occupied()
    same = [await world.queue(7) for _ in range(4)]

    assert await world.finish(first, *same) == [["waitwait"], *[[14]] * 4]
    assert world.engine.batches[1] == [7, 7, 7, 7]


async def test_a_request_without_work_has_no_answers(world: World) -> None:
    assert await results(world.submit()) == []


async def test_a_result_says_how_long_it_waited_and_ran(world: World) -> None:
    world.engine.seconds = 0.5
    first = await world.occupied()
    second = await world.queue(1)
    world.clock.now += 3
    world.release()
    (ran,), (waited,) = await first, await second

    assert isinstance(ran, Done)
    assert (ran.queue_s, ran.run_s) == (0, 3.5)
    assert isinstance(waited, Done)
    assert (waited.queue_s, waited.run_s) == (3.5, 0.5)
    assert world.gauge.waits == [0, 3.5]


# Who is gone


async def test_done_is_checked_before_a_result_is_set(world: World) -> None:
    """A caller that goes while its job runs leaves a done future behind, which no result may touch."""
    first = await world.occupied()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.release()

    assert await results(world.submit(1)) == [2]


async def test_a_cancelled_caller_never_harms_its_neighbours(world: World) -> None:
    first = await world.occupied()
    gone, stays = world.submit(1, 2), world.submit(3)
    await settle()
    gone.cancel()
    await settle()

    assert await world.finish(stays, first) == [[6], ["waitwait"]]
    assert gone.cancelled()
    assert world.engine.batches == [["wait"], [3]], "a cancelled job takes no place in a forward"
    assert world.gauge.dropped_for == {"cancelled": 2}


async def test_a_caller_that_goes_while_the_batch_is_taken_is_not_computed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await world.occupied()
    stays, gone = world.submit(1), world.submit(2)
    await settle()
    monkeypatch.setattr(world.gauge, "queued", lambda _: gone.cancel())

    assert await world.finish(first, stays) == [["waitwait"], [2]]
    assert world.served == [1]
    assert world.gauge.dropped_for == {"cancelled": 1}


async def test_a_cancelled_caller_frees_its_rows_and_bytes_at_once(world: World) -> None:
    first = await world.occupied()
    gone = await world.queue(1, rows=6, size=1000)
    gone.cancel()
    await settle()

    assert (world.gauge.rows[-1], world.gauge.sizes[-1]) == (0, 0)
    stays = await world.queue(2, rows=6, size=1000)
    assert await world.finish(first, stays) == [["waitwait"], [4]]


async def test_callers_that_come_and_go_leave_nothing_behind(wide: World) -> None:
    """Also while the engine hangs and another's large work keeps the queue from running empty."""
    first = await wide.occupied()
    stays = await wide.queue(1, rows=50, client="a", flow="heavy")

    async def come_and_go(times: int) -> None:
        for number in range(times):
            gone = await wide.queue(0, client="a", flow=f"flow {number % 3}")
            gone.cancel()
            await settle()

    await come_and_go(50)
    gc.collect()
    before = len(gc.get_objects())
    await come_and_go(300)
    gc.collect()

    assert len(gc.get_objects()) - before < 100
    assert await wide.finish(first, stays) == [["waitwait"], [2]]


async def test_clients_that_were_served_leave_nothing_behind(wide: World) -> None:
    """Also while another keeps the queue from running empty."""
    before = shares()
    first = await wide.occupied()
    heavy = await wide.queue(1, 2, rows=100, client="heavy")
    many = [wide.submit(n, client=f"client {n}", flow=f"flow {n}") for n in range(300)]
    until_then = wide.submit("wait", client="holder", rows=2)
    await settle()
    await wide.step()
    for task in many:
        await results(task)

    assert wide.gauge.rows[-1] == 200
    assert shares() - before == 3, "the heavy one's priority, client and flow"
    await wide.finish(first, until_then, heavy)


def shares() -> int:
    gc.collect()
    return sum(type(each) is fair_queue.Share for each in gc.get_objects())


# Deadlines


async def test_a_job_that_expires_in_the_queue_is_never_computed(world: World) -> None:
    first = await world.occupied()
    late, patient = world.submit(1, within=50), world.submit(2, within=500)
    await settle()
    world.clock.now += 100

    (_,), (expired,), (result,) = await world.finish(first, late, patient)
    assert isinstance(expired, Expired)
    assert result == 4
    assert world.engine.batches == [["wait"], [2]]
    assert world.gauge.dropped_for == {"expired": 1}


async def test_a_deadline_that_has_passed_is_refused_at_the_door(world: World) -> None:
    with pytest.raises(Expired):
        await world.submit(1, within=-1)

    assert world.engine.batches == []
    assert world.gauge.dropped_for == {"expired": 1}


async def measured(world: World, seconds: float) -> None:
    """Lets a batcher see full batches that take so long for a row."""
    world.engine.seconds = seconds
    first = await world.occupied()
    await world.finish(first, await world.queue(*range(12)))
    world.engine.batches.clear()


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(wide: World) -> None:
    await measured(wide, 0.1)
    first = await wide.occupied()
    ahead = await wide.queue(*range(20))

    with pytest.raises(Expired, match=r"2\.1 s of work comes first, 1 s are left") as caught:
        await wide.submit("late", within=1)
    assert caught.value.remedy is not None
    assert wide.gauge.dropped_for == {"unmeetable": 1}
    assert wide.gauge.rows[-1] == 20

    in_time = await wide.queue("in time", within=2.5)
    await wide.finish(first, ahead, in_time)
    assert "late" not in wide.served
    assert "in time" in wide.served


async def test_a_deadline_counts_only_what_is_served_before_it(wide: World) -> None:
    """Fairness and priority put some work before a long queue, and the estimate knows."""
    await measured(wide, 0.1)
    first = await wide.occupied()
    ahead = await wide.queue(*range(100), client="heavy", flow="x")

    others = [
        await wide.queue("client", within=1, client="light", flow="x"),
        await wide.queue("flow", within=1, client="heavy", flow="y"),
        await wide.queue("high", within=1, client="heavy", flow="x", priority=Priority.HIGH),
    ]
    assert wide.gauge.dropped_for == {}
    assert await wide.finish(*others) == [["clientclient"], ["flowflow"], ["highhigh"]]
    await wide.finish(first, ahead)


async def test_a_deadline_counts_what_others_get_in_the_meantime(wide: World) -> None:
    await measured(wide, 0.1)
    first = await wide.occupied()
    ahead = [await wide.queue(*range(20), client=client) for client in "abc"]

    with pytest.raises(Expired):
        await wide.submit("late", within=3, client="a")
    await wide.finish(first, *ahead)


async def test_nothing_is_refused_before_anything_was_measured(wide: World) -> None:
    first = await wide.occupied()
    tasks = [await wide.queue(n, within=0.001) for n in range(100)]

    assert wide.gauge.dropped_for == {}
    await wide.finish(first, *tasks)


async def test_an_idle_engine_takes_work_however_slow_it_was(wide: World) -> None:
    await measured(wide, 100)

    assert await results(wide.submit(1, within=0.001)) == [2]


async def test_small_batches_say_nothing_about_the_pace_of_full_ones(wide: World) -> None:
    wide.engine.seconds = 10
    for n in range(5):
        await results(wide.submit(n))
    first = await wide.occupied()
    tasks = [await wide.queue(n, within=1) for n in range(10)]

    assert wide.gauge.dropped_for == {}
    await wide.finish(first, *tasks)


async def test_one_slow_batch_does_not_make_the_batcher_refuse(wide: World) -> None:
    await measured(wide, 0.1)
    wide.engine.seconds = 1000
    first = await wide.occupied()
    await wide.finish(first, await wide.queue(*range(4)))
    wide.engine.seconds = 0.1
    first = await wide.occupied()
    ahead = await wide.queue(*range(20))
    in_time = await wide.queue("in time", within=3)

    assert await wide.finish(in_time) == [["in timein time"]]
    await wide.finish(first, ahead)


async def test_a_pace_that_began_too_slow_is_forgotten_with_the_next_batch(wide: World) -> None:
    await measured(wide, 1000)
    wide.engine.seconds = 0.1
    await results(wide.submit(1))
    first = await wide.occupied()
    ahead = await wide.queue(*range(20))
    in_time = await wide.queue("in time", within=3)

    assert await wide.finish(in_time) == [["in timein time"]]
    await wide.finish(first, ahead)


async def test_a_pace_that_stays_slow_is_learnt(wide: World) -> None:
    await measured(wide, 0.1)
    for _ in range(3):
        await measured(wide, 1)
    first = await wide.occupied()
    ahead = await wide.queue(*range(20))

    with pytest.raises(Expired):
        await wide.submit("late", within=10)
    await wide.finish(first, ahead)


# Room


async def test_full_means_refuse_now_and_queue_none_of_it(world: World) -> None:
    first = await world.occupied()
    waiting = await world.queue(1, rows=5)

    with pytest.raises(Overloaded, match="5 rows wait and 2 more do not fit in 6") as caught:
        await world.submit(2, 3)
    assert caught.value.remedy is not None
    assert world.gauge.rows[-1] == 5
    assert world.gauge.dropped_for == {"full_rows": 2}

    fits = await world.queue(4)
    assert await world.finish(first, waiting, fits) == [["waitwait"], [2], [8]]


async def test_nothing_to_run_needs_no_room(world: World) -> None:
    first = await world.occupied()
    waiting = await world.queue(1, 2, 3, 4, 5, 6)

    assert await results(world.submit()) == []

    await world.finish(first, waiting)
    assert not world.gauge.dropped_for


async def test_the_queue_is_bounded_in_bytes_too(world: World) -> None:
    first = await world.occupied()
    waiting = await world.queue(1, size=900)
    assert world.gauge.sizes[-1] == 900

    with pytest.raises(Overloaded, match="900 bytes wait and 101 more do not fit in 1000"):
        await world.submit(2, size=101)
    assert world.gauge.dropped_for == {"full_bytes": 1}

    fits = await world.queue(3, size=100)
    assert await world.finish(first, waiting, fits) == [["waitwait"], [2], [6]]
    assert world.gauge.sizes[-1] == 0


async def test_a_refusal_says_when_there_will_be_room(world: World) -> None:
    first = await world.occupied()
    waiting = await world.queue(1, 2, 3, 4, 5, 6, size=150)
    with pytest.raises(Overloaded) as unknown:
        await world.submit(7)
    assert unknown.value.retry_after_s is None
    world.engine.seconds = 0.5
    await world.finish(first, waiting)

    first = await world.occupied()
    waiting = await world.queue(1, 2, 3, 4, 5, 6, size=150)
    with pytest.raises(Overloaded) as rows:
        await world.submit(7, 8)
    assert rows.value.retry_after_s == pytest.approx(2 * 0.5)
    with pytest.raises(Overloaded) as never:
        await world.submit(7, rows=7)
    assert never.value.retry_after_s is None
    assert never.value.remedy == "send fewer images or members at once"
    await world.finish(first, waiting)


async def test_a_heavy_client_leaves_room_for_others(wide: World) -> None:
    first = await wide.occupied()
    heavy = []
    while not wide.gauge.dropped_for:
        heavy.append(await wide.queue("heavy", client="heavy", flow="x"))
    with pytest.raises(Overloaded, match="more do not fit in 1000 beside what is kept for others"):
        await heavy.pop()
    assert 900 < wide.gauge.rows[-1] < 950, "most of the queue is for whoever comes"

    same_client = await wide.queue("flow", client="heavy", flow="y")
    light = await wide.queue(*["light"] * 16, client="light", flow="x")
    high = await wide.queue("high", client="heavy", flow="x", priority=Priority.HIGH)
    assert await wide.finish(same_client, light, high) == [["flowflow"], ["lightlight"] * 16, ["highhigh"]]
    await wide.finish(first, *heavy)


# Shares


async def test_one_client_with_one_flow_keeps_the_order_of_arrival(wide: World) -> None:
    first = await wide.occupied()
    tasks = [wide.submit(n, rows=1 + n % 3, client="a", flow="x") for n in range(20)]
    await settle()
    await wide.finish(first, *tasks)

    assert wide.served == list(range(20))


async def test_a_heavy_client_cannot_starve_others(wide: World) -> None:
    """However many adapters it uses."""
    first = await wide.occupied()
    heavy = [await wide.queue("heavy", client="heavy", flow=f"flow {n % 50}") for n in range(200)]
    light = await wide.queue(*["light"] * 5, client="light")
    await wide.finish(light)
    ran = wide.served.copy()
    await wide.finish(first, *heavy)

    assert ran.index("light") < 4, "the light client is in the next batch"
    assert Counter(wide.served[:11])["light"] == 5, "and gets half of the engine"


async def test_a_heavy_adapter_cannot_starve_others(wide: World) -> None:
    first = await wide.occupied()
    heavy = await wide.queue(*["heavy"] * 100, flow="x")
    light = await wide.queue(*["light"] * 5, flow="y")
    await wide.finish(first, heavy, light)

    assert Counter(wide.served[:11])["light"] == 5


async def test_shares_are_equal_in_rows_not_in_requests(wide: World) -> None:
    first = await wide.occupied()
    large = [await wide.queue("large", rows=4, client="a") for _ in range(20)]
    small = [await wide.queue("small", rows=1, client="b") for _ in range(80)]
    await wide.finish(first, *large, *small)

    for position in range(1, 100):
        got = Counter(wide.served[:position])
        assert abs(4 * got["large"] - got["small"]) <= 4


async def test_who_used_an_idle_engine_owes_nothing_and_who_did_not_is_owed_nothing(wide: World) -> None:
    first = await wide.occupied()
    alone = await wide.queue(*["before"] * 50, client="a")
    await wide.finish(first, alone)
    wide.engine.batches.clear()
    first = await wide.occupied()
    old, new = [await wide.queue(*[client] * 10, client=client) for client in "ab"]
    await wide.finish(first, old, new)

    assert Counter(wide.served[:10]) == {"a": 5, "b": 5}


async def test_a_client_that_asks_again_and_again_gets_no_more_than_its_share(wide: World) -> None:
    """Its queue is empty each time, so a batcher that forgot its use would serve it first each time."""
    first = await wide.occupied()
    wide.engine.stepping = True
    patient = await wide.queue(*["patient"] * 60, client="patient")
    again = await wide.queue("again", rows=8, client="again")
    for _ in range(12):
        await wide.step()
        if again.done():
            again = await wide.queue("again", rows=8, client="again")
    await wide.finish(first, patient, again)

    asked = [index for index, job in enumerate(wide.served) if job == "again"]
    assert len(asked) > 3
    assert all(after - before > 8 for before, after in pairwise(asked))


async def test_who_comes_after_a_work_that_was_long_due_gets_no_more_than_a_share(wide: World) -> None:
    """A small work beside a large one can be due in the past; time does not go back to it."""
    first = await wide.occupied()
    wide.engine.stepping = True
    large = await wide.queue("large", rows=500, client="a", flow="x")
    steady = await wide.queue(*["steady"] * 100, client="b")
    for _ in range(10):
        await wide.step()
    small = await wide.queue("small", rows=4, client="a", flow="y")
    await wide.step()
    assert wide.served[-1] == "small"
    new = await wide.queue(*["new"] * 30, client="c")
    await wide.finish(first, large, steady, small, new)

    since = wide.served.index("new")
    assert Counter(wide.served[since : since + 20])["steady"] >= 9


async def test_high_priority_overtakes_a_long_queue(wide: World) -> None:
    first = await wide.occupied()
    normal = await wide.queue(*["normal"] * 100)
    high = await wide.queue("high", priority=Priority.HIGH)
    await wide.finish(first, normal, high)

    assert wide.served.index("high") == 0


async def test_low_priority_always_makes_progress(wide: World) -> None:
    first = await wide.occupied()
    tasks = [await wide.queue(*[p.name] * 210, priority=p, client=p.name) for p in Priority]
    await wide.finish(first, *tasks)

    got = Counter(wide.served[:210])
    assert got["HIGH"] == pytest.approx(160, abs=2)
    assert got["NORMAL"] == pytest.approx(40, abs=2)
    assert got["LOW"] == pytest.approx(10, abs=2)


async def test_low_priority_gets_all_of_an_engine_that_nobody_else_wants(world: World) -> None:
    first = await world.occupied()
    low = await world.queue(1, 2, 3, 4, priority=Priority.LOW)

    assert await world.finish(first, low) == [["waitwait"], [2, 4, 6, 8]]
    assert world.engine.batches == [["wait"], [1, 2, 3, 4]]


# Failures


async def test_a_failing_row_fails_alone(world: World) -> None:
    first = await world.occupied()
    one, bad, broken = world.submit(1), world.submit("bad"), world.submit("broken")
    await settle()
    _, (result,), (error,), (crash,) = await world.finish(first, one, bad, broken)

    assert result == 2
    assert isinstance(error, InvalidInput)
    assert isinstance(crash, RuntimeError)
    assert world.engine.batches[1:] == [[1, "bad", "broken"], [1], ["bad"], ["broken"]]
    assert await results(world.submit(3)) == [6], "the batcher goes on"


async def test_memory_that_runs_out_fails_the_work_that_needs_it_alone(world: World) -> None:
    first = await world.occupied()
    one, huge = world.submit(1), world.submit("huge")
    await settle()
    _, (result,), (error,) = await world.finish(first, one, huge)

    assert result == 2
    assert isinstance(error, MemoryError)
    assert await results(world.submit(3)) == [6]


async def test_work_that_nobody_waits_for_is_not_tried_alone(world: World) -> None:
    """A batch that breaks takes time; meanwhile a deadline passes."""
    world.engine.seconds = 10
    first = await world.occupied()
    broken, late = world.submit("broken"), world.submit(1, within=25)
    await settle()
    _, (crash,), (expired,) = await world.finish(first, broken, late)

    assert isinstance(crash, RuntimeError)
    assert isinstance(expired, Expired)
    assert world.engine.batches[1:] == [["broken", 1], ["broken"]]


async def test_an_engine_that_leaves_a_job_unanswered_fails_it_and_nobody_hangs(world: World) -> None:
    (error,) = await results(world.submit("short"))

    assert isinstance(error, AssertionError)
    assert await results(world.submit(1)) == [2]


# Its life


async def test_draining_finishes_what_is_queued_and_takes_no_more(world: World) -> None:
    first, queued = await world.occupied(), await world.queue(1)
    draining = asyncio.create_task(world.batcher.drain(WAIT_S))
    await settle()

    with pytest.raises(Draining):
        await world.submit(2)
    assert not draining.done()
    world.release()

    assert await draining is True
    assert await world.finish(first, queued) == [["waitwait"], [2]]


async def test_draining_is_bounded_and_says_so_to_those_who_wait(world: World) -> None:
    running, queued = await world.occupied(), await world.queue(1, size=5)

    assert await world.batcher.drain(0.01) is False

    for task in (running, queued):
        (error,) = await results(task)
        assert isinstance(error, Draining)
    assert (world.gauge.rows[-1], world.gauge.sizes[-1]) == (0, 0)
    assert world.batcher.oldest_age_s == 0


async def test_the_gauges_follow_every_row_and_byte_in_and_out(world: World) -> None:
    first = await world.occupied()
    assert (world.gauge.rows, world.gauge.sizes) == ([1, 0], [0, 0])
    tasks = [await world.queue(1, rows=2, size=10), await world.queue(2, rows=3, size=20)]
    assert (world.gauge.rows[2:], world.gauge.sizes[2:]) == ([2, 5], [10, 30])
    await world.finish(first, *tasks)

    assert (world.gauge.rows[4:], world.gauge.sizes[4:]) == ([3, 0], [20, 0])
    assert len(world.gauge.waits) == 3


async def test_the_oldest_age_sees_a_hung_batch_behind_an_empty_queue(world: World) -> None:
    """Also when its caller has gone."""
    assert world.batcher.oldest_age_s == 0
    first = await world.occupied()
    world.clock.now += 7
    assert world.batcher.oldest_age_s == 7

    first.cancel()
    await settle()
    assert world.batcher.oldest_age_s == 7
    world.release()
    await results(world.submit(1))
    await settle()
    assert world.batcher.oldest_age_s == 0


async def test_the_oldest_age_is_of_the_oldest_whoever_is_next(world: World) -> None:
    first = await world.occupied()
    world.clock.now += 1
    low = await world.queue(1, priority=Priority.LOW)
    world.clock.now += 2
    high = await world.queue(2, priority=Priority.HIGH)
    assert world.batcher.oldest_age_s == 3
    await world.finish(first, low, high)

    assert world.batcher.oldest_age_s == 0


# Whatever happens


def submissions() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "weights": st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=3),
            "flow": st.sampled_from("xy"),
            "client": st.sampled_from("abc"),
            "priority": st.sampled_from(Priority),
            "within": st.none() | st.integers(1, 4),
            "leaves": st.booleans(),
            "then": st.integers(0, 1),
        }
    )


@settings(max_examples=60)
@given(rounds=st.lists(st.lists(submissions(), max_size=8), max_size=3))
def test_no_work_is_lost_or_run_twice_and_the_accounts_return_to_zero(rounds: list[Any]) -> None:
    asyncio.run(_check(rounds))


async def _check(rounds: list[list[dict[str, Any]]]) -> None:
    weights: dict[str, int] = {}
    fates: dict[str, str] = {}
    async with world_of(max_queue_rows=30, max_queue_bytes=30) as world:
        for actions in rounds:
            hold = await world.occupied()
            submitted = [await _act(world, action, weights) for action in actions]
            world.release()
            await results(hold)
            for jobs, task in submitted:
                await asyncio.wait([task], timeout=WAIT_S)
                fates.update(zip(jobs, _fates(task, len(jobs)), strict=True))
        batches = [[job for job in batch if job != "wait"] for batch in world.engine.batches]

    ran = Counter(job for batch in batches for job in batch)
    assert ran == {job: 1 for job, fate in fates.items() if fate == "done"}
    assert fates.keys() == weights.keys()
    assert all(len(batch) <= 1 or sum(weights[job] for job in batch) <= 4 for batch in batches)
    assert (world.gauge.rows[-1], world.gauge.sizes[-1]) == (0, 0)
    assert max(world.gauge.rows) <= 30
    assert max(world.gauge.sizes) <= 30
    assert world.batcher.oldest_age_s == 0
    lost = sum(fate != "done" for fate in fates.values())
    assert sum(world.gauge.dropped_for.values()) == lost


async def _act(world: World, action: dict[str, Any], weights: dict[str, int]) -> tuple[list[str], Submitted]:
    """Submits, perhaps leaves, and lets time pass."""
    jobs = []
    for rows, size in action["weights"]:
        job = f"job {len(weights)}"
        weights[job] = rows
        jobs.append(Job(value=job, rows=rows, nbytes=size))
    deadline = None if action["within"] is None else world.clock.now + action["within"]
    who = {name: action[name] for name in ("client", "priority", "flow")}
    task = asyncio.create_task(world.batcher.submit(jobs, deadline=deadline, **who))
    await settle()
    if action["leaves"]:
        task.cancel()
        await settle()
    world.clock.now += action["then"]
    return [job.value for job in jobs], task


def _fates(task: Submitted, works: int) -> list[str]:
    if task.cancelled():
        return ["cancelled"] * works
    if error := task.exception():
        assert isinstance(error, Overloaded | Expired)
        return ["refused"] * works
    return ["done" if isinstance(outcome, Done) else "expired" for outcome in task.result()]
