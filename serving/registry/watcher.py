"""The watcher: follows the store's names, so that requests need not ask for them.

What a changed named route means is loaded before any request sees the change, so the first one is not
slow. A store that cannot be reached keeps what is known in use.
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
        load: Brings what a plan needs into memory.
        announce: Makes a named route known to the metrics.
        every_s: Pause between two looks, seconds.
        pool: Where looks run; they block.
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
        """Looks until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._every_s)
            await loop.run_in_executor(self._pool, self.follow)

    def follow(self) -> None:
        """Follows what has changed; blocks. While the store cannot be read, everything stays as it was."""
        try:
            self._announce_all(self._catalog.refresh(self._warm))
        except Exception as error:
            # A fault of ours must not end the watch either; its traceback is said once.
            if self._reachable:
                fault = None if isinstance(error, CorollaError) else error
                _log.warning("names stay as they were: %s", error, exc_info=fault)
            self._reachable = False
        else:
            if not self._reachable:
                _log.info("the store answers again")
            self._reachable = True

    def reload(self) -> list[Change]:
        """Forgets what is known of names, and asks the store for all of it; blocks.

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
