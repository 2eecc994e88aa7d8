"""The watcher: follows the store's names, so that requests need not ask for them.

The adapters of a changed named route are loaded before any request sees the change, so that the first one is
not slow. While the store cannot be reached, names keep their last known meaning.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from petl_vit.errors import CorollaError
from serving.registry.catalog import Catalog, Change, Plan

_log = logging.getLogger(__name__)


class Watcher:
    """Keeps a catalog as fresh as its store.

    Args:
        load: Loads the adapters of a plan.
        announce: Makes a named route known to the metrics.
        every_s: Pause between two refreshes, seconds.
        pool: Where refreshes run; they block.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        load: Callable[[Plan], object],
        announce: Callable[[Plan], object],
        every_s: float,
        pool: Executor,
    ) -> None:
        self._catalog, self._load, self._announce = catalog, load, announce
        self._every_s, self._pool = every_s, pool
        self._reachable = True

    async def run(self) -> None:
        """Refreshes until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._every_s)
            await loop.run_in_executor(self._pool, self.follow)

    def follow(self) -> None:
        """Refreshes once; blocks. While the store cannot be read, everything stays as it was."""
        try:
            self._announce_all(self._catalog.refresh(self._warm))
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
        plans, changes = self._catalog.reload(self._warm)
        self._announce_all(plans)
        return changes

    def _warm(self, plan: Plan) -> None:
        try:
            self._load(plan)
        except CorollaError as error:
            _log.warning("route %s is not loaded: %s", plan.named, error)

    def _announce_all(self, plans: list[Plan]) -> None:
        for plan in plans:
            self._announce(plan)
