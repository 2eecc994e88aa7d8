"""Work that is done ahead in a thread, in order, while its results are used."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 2
"""Results that are ready or under way while one is used."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    compute: Callable[[Item], Result],
    items: Sequence[Item],
    waited: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Result]:
    """`compute` of every item in their order, one at a time, in one thread that is up to two items ahead.

    Args:
        waited: Called with the seconds for which a result was waited for, but for the first one.

    Raises:
        Exception: What `compute` raised, where its result is due.
    """
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        try:
            for place, item in enumerate(items):
                under_way.append(thread.submit(compute, item))
                if place >= AHEAD:
                    yield _result(under_way, waited, first=place == AHEAD)
            for place in range(len(under_way)):
                yield _result(under_way, waited, first=place == 0 and len(items) <= AHEAD)
        finally:
            for future in under_way:
                future.cancel()


def _result(under_way: deque[Future[Result]], waited: Callable[[float], None], *, first: bool) -> Result:
    started = time.perf_counter()
    result = under_way.popleft().result()
    if not first:
        waited(time.perf_counter() - started)
    return result
