"""Principals and tasks share the engine by their weights."""

from collections import Counter

import pytest

from serving.engine.fair_queue import Party
from tests.serving.engine.batcher.batches import World


async def test_tasks_share_a_busy_engine_by_their_weights(wide: World) -> None:
    first = await wide.occupied()
    tasks = [
        await wide.queue(*[name] * 200, task=Party(name, weight), client="one")
        for name, weight in (("plants", 4.0), ("birds", 1.0), ("fish", 0.5))
    ]
    await wide.finish(first, *tasks)

    got = Counter(wide.served[:220])
    assert got["plants"] == pytest.approx(160, abs=2)
    assert got["birds"] == pytest.approx(40, abs=2)
    assert got["fish"] == pytest.approx(20, abs=2)


async def test_a_task_that_is_alone_gets_all_whatever_its_weight(wide: World) -> None:
    first = await wide.occupied()
    light = await wide.queue(*range(8), task=Party("light", 0.001))

    assert await wide.finish(first, light) == [["waitwait"], [2 * number for number in range(8)]]


async def test_a_principal_gains_nothing_by_using_many_tasks_and_clients(wide: World) -> None:
    first = await wide.occupied()
    many = [
        await wide.queue(*["many"] * 4, principal=Party("a"), task=Party(f"task {n}", 9.0), client=f"{n}")
        for n in range(40)
    ]
    one = await wide.queue(*["one"] * 40, principal=Party("b"), task=Party("task 1"))
    await wide.finish(first, *many, one)

    assert Counter(wide.served[:60])["one"] == pytest.approx(30, abs=2)


async def test_a_principals_weight_counts_beside_the_others(wide: World) -> None:
    first = await wide.occupied()
    heavy = await wide.queue(*["heavy"] * 100, principal=Party("heavy", 3.0))
    light = await wide.queue(*["light"] * 100, principal=Party("light"))
    await wide.finish(first, heavy, light)

    assert Counter(wide.served[:100])["heavy"] == pytest.approx(75, abs=2)


async def test_a_weight_that_changes_while_work_waits_harms_nothing(wide: World) -> None:
    first = await wide.occupied()
    before = await wide.queue(1, 2, principal=Party("a", 1.0))
    after = await wide.queue(3, principal=Party("a", 2.0))

    assert await wide.finish(first, before, after) == [["waitwait"], [2, 4], [6]]
    assert wide.gauge.rows[-1] == 0


async def test_the_rows_that_come_first_are_counted_by_weights(wide: World) -> None:
    """Work of a heavy task is not refused for the rows of light ones, which mostly come later."""
    wide.engine.seconds = 0.1
    await wide.finish(await wide.occupied(), await wide.queue(*range(12)))
    first = await wide.occupied()
    light = await wide.queue(*["light"] * 100, task=Party("light"))
    heavy = await wide.queue(*["heavy"] * 8, task=Party("heavy", 10.0))

    more = await wide.queue("more", task=Party("heavy", 10.0), within=1.2)
    await wide.finish(first, light, heavy, more)

    assert not wide.gauge.dropped_for
    assert "more" in wide.served
