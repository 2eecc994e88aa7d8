"""Work that is asked in rounds: what its later rounds owe to the first."""

import asyncio
from contextvars import Context

import pytest

from petl_vit.errors import Draining, Expired
from tests.serving.engine.batcher.batches import WAIT_S, World, results, settle


async def test_a_later_round_goes_before_what_waits_in_its_flow_and_not_before_others(world: World) -> None:
    world.engine.stepping = True
    running = await world.occupied()
    with world.batcher.accepted():
        tasks = [
            await world.queue("new", rows=4, flow="ours"),
            await world.queue("later", "and later", rows=2, flow="ours", later=True),
        ]
        await world.finish(running, *tasks)
    assert world.served == ["later", "and later", "new"]


async def test_a_full_queue_does_not_refuse_a_later_round(world: World) -> None:
    running, waiting = await world.occupied(), await world.queue(1, 2, 3, rows=2, size=300)
    with world.batcher.accepted():
        later = await world.queue("later", rows=4, size=900, later=True)
        assert await world.finish(running, waiting, later) == [["waitwait"], [2, 4, 6], ["laterlater"]]
    assert not world.gauge.dropped_for


async def test_a_later_round_whose_deadline_has_passed_is_refused(world: World) -> None:
    with world.batcher.accepted():
        with pytest.raises(Expired):
            await world.submit("later", within=0, later=True)
        assert world.gauge.dropped_for == {"expired": 1}
        running, later = await world.occupied(), await world.queue("later", within=5, later=True)
        world.clock.now += 6
        await world.finish(running)
        (outcome,) = await results(later)
        assert isinstance(outcome, Expired)


async def test_a_drain_waits_for_all_that_an_accepted_request_submits(world: World) -> None:
    with world.batcher.accepted():
        draining = asyncio.create_task(world.batcher.drain(WAIT_S))
        await settle()
        assert not draining.done()
        assert await results(world.submit(1)) == [2]
        with world.batcher.accepted():
            assert await results(world.submit(4, later=True)) == [8]
        await settle()
        assert not draining.done()

    assert await draining is True


async def test_a_drain_refuses_what_was_not_accepted_before_it(world: World) -> None:
    with world.batcher.accepted():
        draining = asyncio.create_task(world.batcher.drain(WAIT_S))
        await settle()

        async def another() -> None:
            with pytest.raises(Draining):
                await world.submit(3)
            with pytest.raises(Draining), world.batcher.accepted():
                pass

        await asyncio.create_task(another(), context=Context())
    assert await draining is True


async def test_a_drain_that_takes_too_long_refuses_what_accepted_requests_submit(world: World) -> None:
    with world.batcher.accepted():
        assert await results(world.submit(1)) == [2]
        assert await world.batcher.drain(0.01) is False
        with pytest.raises(Draining):
            await world.submit(4, later=True)
