"""Questions to the store, apart from what computes: a store that hangs holds up no answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from typing import TypeVar

from petl_vit.errors import Unreachable

T = TypeVar("T")


class Lookups:
    """Asks the store in threads of their own, and waits for an answer only so long.

    Args:
        threads: What asks; a question that hangs keeps its thread.
        limit_s: Longest wait for an answer, seconds.
    """

    def __init__(self, threads: Executor, limit_s: float = 60.0) -> None:
        self._threads, self._limit_s = threads, limit_s

    async def run(self, question: Callable[..., T], *arguments: object) -> T:
        """The answer to a question.

        Raises:
            Unreachable: It takes too long.
        """
        run, loop = copy_context().run, asyncio.get_running_loop()
        asked = loop.run_in_executor(self._threads, run, question, *arguments)
        await asyncio.wait({asked}, timeout=self._limit_s)
        if asked.done():
            return asked.result()
        asked.cancel()
        raise Unreachable(
            f"the store has not answered for {self._limit_s:g} s",
            remedy="retry after a pause; names that are in use are answered meanwhile",
        )
