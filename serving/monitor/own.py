"""What a server knows of itself: an evaluator over its own registry, for the pages of its port."""

import logging
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Final

from prometheus_client import CollectorRegistry

from serving.metrics.port import Paced, Page
from serving.monitor.alarm_settings import SettingsByRoute
from serving.monitor.alarms import SequentialAlarms
from serving.monitor.confusion import Confusions, Stored
from serving.monitor.evaluator import Evaluator, EvaluatorSettings
from serving.monitor.pages import StatusPages
from serving.monitor.sources import OwnSource
from serving.monitor.status import Status

_log = logging.getLogger(__name__)

EVERY_S: Final = 30.0
"""Between two looks while nobody reads the pages: windows and plots need a past."""
_REST: Final = 50.0  # after a look, in times of the CPU time that it took, with very many routes and domains


class OwnStatus:
    """Pages about this process.

    They are there at once, and have numbers from `start` on.

    Args:
        registry: Of the process.
        unready: Why it does not serve at this moment; None while it does.
        alarms: Default: the defaults for every route.
        every_s: Between two looks while nobody reads the pages.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        unready: Callable[[], str | None],
        alarms: SettingsByRoute | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._unready = unready
        self._alarms = SequentialAlarms(alarms)
        self._settings = EvaluatorSettings(every_s=every_s)
        self._source = OwnSource(Paced(registry))
        self._evaluator: Evaluator | None = None
        self._pages = StatusPages(self._look)
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="status", daemon=True)

    @property
    def pages(self) -> Mapping[str, Page]:
        """By path."""
        return self._pages.pages

    def start(self, references: Stored) -> None:
        """Begins to look.

        Args:
            references: Of the store, for what gauges cannot hold.
        """
        self._evaluator = Evaluator(
            self._source, self._settings, alarms=self._alarms, confusions=Confusions(references)
        )
        self._thread.start()

    def close(self) -> None:
        """Looks no more. Blocks until a look in progress has ended."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            computed = time.thread_time()
            try:
                self._pages.status()
            except Exception:
                _log.exception("the status page could not be brought up to date")
            self._stopped.wait(max(self._settings.every_s, _REST * (time.thread_time() - computed)))

    def _look(self) -> Status:
        if self._evaluator is None:
            status = Status(
                at=time.time(),
                source=self._source.name,
                window_s=self._settings.window_s,
                label_window_s=self._settings.label_window_s,
            )
        else:
            status = self._evaluator.step()
        reason = self._unready()
        if reason is None:
            return status
        problem = f"this server does not take requests: {reason}"
        return status.model_copy(update={"problems": (problem, *status.problems)})
