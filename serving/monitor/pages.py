"""The status as pages of a port: `/` for people, `/status.json` for programs and `corolla watch`."""

import time
from collections.abc import Callable, Mapping
from threading import Lock

from serving.metrics.port import Answer, Page
from serving.monitor.page.render import html
from serving.monitor.status import Status

JSON_PATH = "/status.json"
_FRESH_S = 1.0  # looks of many readers are one
_REST = 20.0  # after a look, in times of the CPU time that it took: readers cost at most a twentieth of a CPU
_EVERY_S = 10.0  # the page in a browser


class StatusPages:
    """Pages over one look at a time; it serves all who ask within a second, or longer where it is dear.

    Args:
        look: The status now. Called from threads of the port, one at a time.
        fresh_s: How old a look may be, if it was quick.
        every_s: How often a browser reads the page again.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        look: Callable[[], Status],
        *,
        fresh_s: float = _FRESH_S,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._fresh_s, self._every_s, self._clock = look, fresh_s, every_s, clock
        self._lock = Lock()
        self._last: tuple[float, Status] | None = None  # and until when it is fresh

    @property
    def pages(self) -> Mapping[str, Page]:
        """By path."""
        return {"/": self._html, JSON_PATH: self._json}

    def status(self) -> Status:
        """That of a look which is still fresh."""
        with self._lock:
            if self._last is None or self._clock() >= self._last[0]:
                begun, computed = self._clock(), time.thread_time()
                status = self._look()
                rest = max(self._fresh_s, _REST * (time.thread_time() - computed))
                self._last = (begun + rest, status)
            return self._last[1]

    def _html(self) -> Answer:
        return _answer("text/html; charset=utf-8", html(self.status(), every_s=self._every_s))

    def _json(self) -> Answer:
        return _answer("application/json", self.status().model_dump_json())


def _answer(kind: str, text: str) -> Answer:
    headers = (("Content-Type", kind), ("Vary", "Accept-Encoding"), ("X-Content-Type-Options", "nosniff"))
    # Names come from requests: half a surrogate pair in one must not take the page away.
    return Answer(headers=headers, body=text.encode("utf-8", "replace"))
