"""The watcher: follows the store's names, so that requests need not ask for them.

The adapters of a changed named route are loaded before any request sees the change, so that the first one is
not slow. While the store cannot be reached, names keep their last known meaning.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor

from petl_vit.errors import CorollaError
from serving.registry.catalog import Catalog, Change, Plan, Refreshed, Warm
from serving.registry.changes import Changes

_log = logging.getLogger(__name__)

_AT_ONCE_S = 10.0
"""An error that comes sooner is an answer; a store that hangs ends in one after a minute."""


class Watcher:
    """Keeps a catalog as fresh as its store.

    Args:
        load: Loads the adapters of a plan.
        announce: Makes a named route known to the metrics.
        changes: Says and records what names have come to mean.
        compare: Looks for the references of named routes; called with whether one is answered otherwise.
        every_s: Pause between two refreshes, seconds.
        stall_s: How long the store may not answer before the server is not ready, seconds.
        pool: Where refreshes run; they block.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        load: Callable[[Plan], object],
        announce: Callable[[Plan], object],
        changes: Changes,
        compare: Callable[[bool], object],
        every_s: float,
        stall_s: float,
        pool: Executor,
    ) -> None:
        self._catalog, self._load, self._announce = catalog, load, announce
        self._changes, self._compare = changes, compare
        self._following = threading.Lock()
        self._every_s, self._pool = every_s, pool
        self._answers_within_s = min(_AT_ONCE_S, stall_s)
        self._reachable = True
        self._asked_at, self._hung = 0.0, False
        self._since: float | None = None

    @property
    def waiting_s(self) -> float:
        """Seconds for which the store has not answered; 0 while nobody waits. Any thread may ask.

        An attempt that failed after a wait was not answered, so the next one waits since the first began.
        """
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self) -> None:
        """Refreshes until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._every_s)
            await loop.run_in_executor(self._pool, self.follow)

    def follow(self) -> None:
        """Refreshes once; blocks. While the store cannot be read, everything stays as it was."""
        try:
            self._follow(self._catalog.refresh)
        except Exception as error:
            # Unexpected errors must not end the watch either; their traceback is logged once.
            if self._reachable:
                unexpected = None if isinstance(error, CorollaError) else error
                _log.warning("names stay as they were: %s", error, exc_info=unexpected)
            self._reachable = False
        else:
            if not self._reachable:
                _log.info("the store answers again")
            self._reachable = True

    def reload(self) -> list[Change]:
        """Reads all names from the store again; blocks.

        Raises:
            CorollaError: The store cannot be read; everything stays as it was.
        """
        return self._follow(self._catalog.reload).changes

    def _follow(self, refresh: Callable[[Warm], Refreshed]) -> Refreshed:
        with self._following:  # lines are written in the order of the changes
            self._ask()
            try:
                refreshed = refresh(self._warm)
                for plan in refreshed.plans:
                    self._announce(plan)
                self._changes.say(refreshed)
                self._changes.record()
                self._compare(bool(refreshed.moves))
            except Exception:
                self._failed()
                raise
            self._answered()
        return refreshed

    def _warm(self, plan: Plan) -> None:
        self._ask()
        try:
            self._load(plan)
        except CorollaError as error:
            self._failed()
            _log.warning("route %s is not loaded: %s", plan.named, error)
        else:
            self._hung = False
        self._ask()  # for what comes after

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        if not self._hung:
            self._since = self._asked_at

    def _failed(self) -> None:
        if time.monotonic() - self._asked_at < self._answers_within_s:
            self._answered()
        else:
            self._hung = True

    def _answered(self) -> None:
        self._since, self._hung = None, False
