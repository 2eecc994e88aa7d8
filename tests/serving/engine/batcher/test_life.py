import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petl_vit.errors import Draining, Expired, Overloaded
from serving.engine.batcher import Done
from serving.engine.priority import Priority
from tests.serving.engine.batcher.batches import WAIT_S, Job, Submitted, World, results, settle, world_of

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
