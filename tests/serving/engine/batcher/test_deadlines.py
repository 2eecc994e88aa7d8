import pytest

from petl_vit.errors import Expired
from serving.engine.priority import Priority
from tests.serving.engine.batcher.batches import World, results, settle


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
