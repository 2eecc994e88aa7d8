"""A stream of requests: a bounded number under way, answered as they finish and no faster than they are read.

Knows neither protobuf nor gRPC. A request has a place from before it is read until its answer is written, so
a peer that stops reading holds that many answers and no more; no request is kept once it has its answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


async def answer_all(
    read: Callable[[], Awaitable[RequestT | None]],
    answer: Callable[[RequestT], Awaitable[AnswerT]],
    write: Callable[[AnswerT], Awaitable[None]],
    *,
    most: int,
    ordered: bool = False,
) -> None:
    """Answers every request, each as soon as it is done.

    Cancelling it cancels all that is under way.

    Args:
        read: Waits for the next request; None where there are no more.
        answer: Never raises but to end the stream.
        write: Waits until the peer takes the answer. Called by one task at a time.
        most: Most requests under way, including the one being read.
        ordered: Whether answers are written in the order of their requests.

    Raises:
        Exception: The error of reading, once the requests before it are answered; or the error of `answer`
            or `write`, at once.
    """
    places, writing = asyncio.Semaphore(most), asyncio.Lock()
    broken: Exception | None = None
    last = asyncio.Event()
    last.set()

    async def answer_one(request: RequestT, before: asyncio.Event, after: asyncio.Event) -> None:
        answered = await answer(request)
        del request  # frees its images while the peer does not read
        if ordered:
            await before.wait()
        async with writing:
            await write(answered)
        after.set()
        places.release()

    try:
        async with asyncio.TaskGroup() as group:
            while True:
                await places.acquire()
                try:
                    request = await read()
                except Exception as error:
                    broken = error
                    break
                if request is None:
                    break
                before, last = last, asyncio.Event()
                group.create_task(answer_one(request, before, last))
                del request
    except* Exception as group_failed:
        raise _first(group_failed) from None
    if broken is not None:
        raise broken


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first error of a failed group, for which the other tasks were cancelled."""
    error: Exception = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
