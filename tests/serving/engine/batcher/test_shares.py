from collections import Counter
from itertools import pairwise

import pytest

from petl_vit.errors import Overloaded
from serving.engine.priority import Priority
from tests.serving.engine.batcher.batches import World, results, settle

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
