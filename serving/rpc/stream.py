"""A stream of requests: a bounded number under way, answered as they finish and no faster than they are read.

Knows neither protobuf nor gRPC. A request has a place from before it is read until its answer is written, so
a peer that stops reading holds that many answers and no more.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


async def answer_all(
    requests: AsyncIterator[RequestT],
    answer: Callable[[RequestT], Awaitable[AnswerT]],
    write: Callable[[AnswerT], Awaitable[None]],
    *,
    most: int,
) -> None:
    """Answers every request, each as soon as it is done.

    Cancelling it cancels all that is under way.

    Args:
        answer: Never raises but to end the stream.
        write: Waits until the peer takes the answer. Called by one task at a time.
        most: Most requests under way, including the one being read.

    Raises:
        Exception: The error of reading, once the requests before it are answered; or the error of `answer`
            or `write`, at once.
    """
    places, writing = asyncio.Semaphore(most), asyncio.Lock()
    broken: Exception | None = None

    async def answer_one(request: RequestT) -> None:
        answered = await answer(request)
        del request  # frees its images while the peer does not read
        async with writing:
            await write(answered)
        places.release()

    try:
        async with asyncio.TaskGroup() as group:
            while True:
                await places.acquire()
                try:
                    request = await anext(requests)
                except StopAsyncIteration:
                    break
                except Exception as error:
                    broken = error
                    break
                group.create_task(answer_one(request))
                del request
    except* Exception as group_failed:
        raise _first(group_failed) from None
    if broken is not None:
        raise broken


def in_order(answer: Callable[[RequestT], Awaitable[AnswerT]]) -> Callable[[RequestT], Awaitable[AnswerT]]:
    """Makes answers finish in the order in which they were begun.

    Args:
        answer: Never raises.
    """
    last = asyncio.Event()
    last.set()

    async def in_turn(request: RequestT) -> AnswerT:
        nonlocal last
        before, last = last, asyncio.Event()
        after = last
        answered = await answer(request)
        await before.wait()
        after.set()
        return answered

    return in_turn


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first error of a failed group, for which the other tasks were cancelled."""
    error: Exception = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
