"""How much a principal may send: requests and rows in any second. No torch, no gRPC."""

import math
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from petl_vit.errors import Overloaded
from serving.access.principals import Principal

_LONGEST_S = 100
"""The window of a rate below one in a second is as many whole seconds as it needs, at most these."""


class Limits:
    """What each principal has sent lately. Used by one thread, the event loop's.

    Args:
        clock: Seconds; it never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._windows = clock, _Windows(clock)
        self._limiter = MovingWindowRateLimiter(self._windows)

    def keep(self, names: Collection[str]) -> None:
        """Forgets all principals but these."""
        self._windows.keep(names)

    def take_request(self, principal: Principal) -> None:
        """Counts one request.

        Raises:
            Overloaded: The principal has sent as many as it may; says when it may send the next.
        """
        if principal.requests_per_s is not None:
            self._take(principal.name, "requests", principal.requests_per_s, 1)

    def take_rows(self, principal: Principal, rows: int) -> None:
        """Counts rows before they are computed.

        Raises:
            Overloaded: They are more than the principal may send now, or than it may ever send at once.
        """
        if principal.rows_per_s is not None:
            self._take(principal.name, "rows", principal.rows_per_s, rows)

    def add_rows(self, principal: Principal, rows: int) -> None:
        """Counts rows that follow from what was taken; never refuses.

        What the window has no room for is a debt: until it is paid, at the principal's rate, others wait.
        """
        if principal.rows_per_s is not None:
            item = _item(principal.rows_per_s)
            key = item.key_for(principal.name, "rows")
            self._windows.add(key, item.amount, item.get_expiry(), rows)

    def _take(self, name: str, unit: str, rate: float, amount: int) -> None:
        item = _item(rate)
        if self._limiter.hit(item, name, unit, cost=amount):
            return
        if amount > item.amount:
            raise Overloaded(
                f"{amount} {unit} at once, and {name} may send {rate:g} in a second",
                field=unit,
                remedy="send fewer images or members in one request",
            )
        reset = self._limiter.get_window_stats(item, name, unit).reset_time
        raise Overloaded(
            f"{name} may send {rate:g} {unit} in a second and has sent them",
            field=unit,
            remedy="retry after a pause, or ask for a higher limit",
            retry_after_s=max(0.0, reset - self._clock()),
        )


@lru_cache(maxsize=1024)
def _item(rate: float) -> RateLimitItemPerSecond:
    """A rate as the library has it: a whole number in whole seconds."""
    fraction = Fraction(rate).limit_denominator(_LONGEST_S)
    return RateLimitItemPerSecond(fraction.numerator, fraction.denominator)


@dataclass(kw_only=True)
class _Window:
    """What was taken lately, oldest first, and its sum; a debt is dated when the rate would take it."""

    taken: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def forget(self, until: float) -> None:
        while self.taken and self.taken[0][0] <= until:
            self.total -= self.taken.popleft()[1]

    def add(self, when: float, amount: int) -> None:
        # Never before what is there: that is forgotten in this order.
        self.taken.append((max(when, self.latest), amount))
        self.total += amount

    @property
    def latest(self) -> float:
        return self.taken[-1][0] if self.taken else -math.inf

    def frees(self, limit: int, now: float) -> float:
        """The date of what has to be forgotten before there is room for more."""
        total = self.total
        for when, amount in self.taken:
            total -= amount
            if total < limit:
                return when
        return now


class _Windows(MemoryStorage):
    """Moving windows for the library's strategy.

    The library's own memory starts a thread for every hit, to clean up, where these are rarer than 100 in a
    second (0.4 ms), keeps every row as an entry of a list, and goes by the clock of the wall, which jumps.
    """

    STORAGE_SCHEME = None  # type: ignore[assignment]  # it has no URL

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def keep(self, names: Collection[str]) -> None:
        for key in list(self._windows):  # a copy, as another thread may add to them
            if key.split("/")[1] not in names:
                self._windows.pop(key, None)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        window, now = self._window(key), self._clock()
        window.forget(now - expiry)
        if window.total + amount > limit:
            return False
        window.add(now, amount)
        return True

    def add(self, key: str, limit: int, expiry: int, amount: int) -> None:
        """Counts an amount, whether there is room for it or not."""
        window, now = self._window(key), self._clock()
        window.forget(now - expiry)
        debt = min(amount, max(0, window.total + amount - limit))
        if amount > debt:
            window.add(now, amount - debt)
        if debt:
            window.add(max(now, window.latest) + expiry * debt / limit, debt)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        window, now = self._window(key), self._clock()
        window.forget(now - expiry)
        return window.frees(limit, now), window.total

    def _window(self, key: str) -> _Window:
        return self._windows.setdefault(key, _Window())
