import threading

import pytest

from training.run.ahead import AHEAD, ahead


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_results_come_in_order_and_each_once(count: int) -> None:
    waits: list[float] = []
    assert list(ahead(lambda item: item * 10, range(count), waits.append)) == [10 * i for i in range(count)]
    assert len(waits) == max(0, count - 1)  # the first has nothing to hide behind


def test_the_thread_is_two_items_ahead_while_a_result_is_used() -> None:
    begun = [threading.Event() for _ in range(6)]
    results = ahead(lambda item: begun[item].set() or item, range(6))
    assert next(results) == 0
    assert all(event.wait(60) for event in begun[: AHEAD + 1])
    assert not begun[AHEAD + 1].is_set()
    assert list(results) == [1, 2, 3, 4, 5]


def test_what_fails_is_raised_where_its_result_is_due() -> None:
    def compute(item: int) -> int:
        if item == 2:
            raise ValueError("no such image")
        return item

    results = ahead(compute, range(6))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="no such image"):
        next(results)


def test_who_stops_early_leaves_nothing_behind() -> None:
    begun: list[int] = []
    results = ahead(lambda item: begun.append(item), range(100))
    next(results)
    results.close()
    assert len(begun) <= AHEAD + 1
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())
