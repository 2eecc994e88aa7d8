import asyncio
import gc

import pytest

from petl_vit.errors import Expired, InvalidInput
from serving.engine import fair_queue
from serving.engine.batcher import EFFICIENT_ROWS, Done
from tests.serving.engine.batcher.batches import World, results, settle, world_of

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


@pytest.mark.parametrize(("seconds", "rows"), [(0.001, 32), (0.012, 16), (0.019, 10), (0.1, EFFICIENT_ROWS)])
async def test_a_batch_has_no_more_rows_than_its_time_allows_but_as_many_as_are_efficient(
    seconds: float, rows: int
) -> None:
    async with world_of(max_batch_rows=32, max_queue_rows=200, max_batch_s=0.2) as world:
        world.engine.seconds = seconds
        first = await world.occupied()
        many = await world.queue(*range(100))
        await world.finish(first, many)

    full, rest = divmod(100 - 32, rows)
    sizes = [len(batch) for batch in world.engine.batches]
    assert sizes == [1, 32, *[rows] * full, *[rest] * (rest > 0)], "the first full one is measured"


async def test_a_batch_that_is_not_full_tells_how_many_rows_the_next_may_have() -> None:
    async with world_of(max_batch_rows=32, max_queue_rows=200, max_batch_s=0.2) as world:
        world.engine.seconds = 0.019
        first = await world.occupied()
        some = await world.queue(*range(20))
        await world.finish(first, some)
        first = await world.occupied()
        more = await world.queue(*range(20))
        await world.finish(first, more)

    assert [len(batch) for batch in world.engine.batches] == [1, 20, 1, 10, 10]


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

    def left() -> int:
        """Objects of the queue, and what waits for them; threads of other tests make others meanwhile."""
        gc.collect()
        kinds = [type(each) for each in gc.get_objects()]
        return sum(
            str(kind.__module__).startswith(("serving.engine", "asyncio", "_asyncio")) for kind in kinds
        )

    await come_and_go(50)
    before = left()
    await come_and_go(300)
    more = left() - before

    assert more < 20
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
    assert shares() - before == 5, "the heavy one's share at each step of its path"
    await wide.finish(first, until_then, heavy)


def shares() -> int:
    gc.collect()
    return sum(type(each) is fair_queue.Share for each in gc.get_objects())


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
