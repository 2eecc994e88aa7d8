"""A queue that parties share fairly, in memory: what waits, what it weighs, whose turn it is.

Knows nothing of time, engines or requests.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

_EQUAL: Mapping[Hashable, float] = MappingProxyType({})


class Weighed(Protocol):
    """What waits, as far as the queue knows it; compared by identity."""

    @property
    def rows(self) -> int:
        """Rows of a forward, at least 1: what it costs."""

    @property
    def nbytes(self) -> int:
        """What it keeps in memory while it waits."""


Item = TypeVar("Item", bound=Weighed)


class Line(Generic[Item]):
    """The waiting items of one flow, in order of arrival but for those that were added as the first."""

    def __init__(self) -> None:
        self.rows = 0
        self.nbytes = 0
        self._items: OrderedDict[Item, None] = OrderedDict()

    def head(self) -> Item | None:
        return next(iter(self._items), None)

    def add(self, path: Sequence[Hashable], item: Item, *, first: bool = False) -> None:
        self._items[item] = None
        if first:
            self._items.move_to_end(item, last=False)
        self.rows += item.rows
        self.nbytes += item.nbytes

    def remove(self, path: Sequence[Hashable], item: Item, *, served: bool) -> None:
        del self._items[item]
        self.rows -= item.rows
        self.nbytes -= item.nbytes

    def along(self, path: Sequence[Hashable]) -> "Iterator[Line[Item] | FairQueue[Item]]":
        yield self

    def ahead(self, path: Sequence[Hashable]) -> int:
        return self.rows


@dataclass(eq=False, kw_only=True)
class Share(Generic[Item]):
    """What one party has waiting, and its place in virtual time."""

    queue: "Line[Item] | FairQueue[Item]"
    weight: float
    start: float
    finish: float = math.nan  # of its head; NaN, equal to no turn, while nothing waits


class FairQueue(Generic[Item]):
    """Items, shared fairly among the parties named by the first step of their path, then by the next.

    Self-clocked fair queueing (Golestani, INFOCOM 1994). Virtual time counts rows by weight. Next is the
    party whose head would finish first had each been served in proportion to its weight. The clock is
    the latest finish served, so a party with nothing waiting owes and is owed nothing, and is forgotten.
    Every change is O(log parties), at each step of the path.

    Args:
        weights: Of the parties at the first step; others, and all at later steps, have 1.
    """

    def __init__(self, weights: Mapping[Hashable, float] = _EQUAL) -> None:
        self.rows = 0
        self.nbytes = 0
        self._weights = weights
        self._clock = 0.0
        self._shares: dict[Hashable, Share[Item]] = {}
        self._turns: list[tuple[float, int, Share[Item]]] = []
        self._tickets = count()

    def head(self) -> Item | None:
        """The item whose turn it is."""
        while self._turns:
            finish, _, share = self._turns[0]
            if finish == share.finish:
                return share.queue.head()
            heappop(self._turns)
        return None

    def add(self, path: Sequence[Hashable], item: Item, *, first: bool = False) -> None:
        """Lets an item wait behind all others of its path, or `first` of them."""
        party, *rest = path
        share = self._shares.get(party)
        if share is None:
            queue: Line[Item] | FairQueue[Item] = FairQueue() if rest else Line()
            share = Share(queue=queue, weight=self._weights.get(party, 1.0), start=self._clock)
            self._shares[party] = share
        share.queue.add(rest, item, first=first)
        self.rows += item.rows
        self.nbytes += item.nbytes
        self._set_turn(party, share)

    def remove(self, path: Sequence[Hashable], item: Item, *, served: bool) -> None:
        """Takes an item out. Its rows count as its party's use if it was served, which only a head can be."""
        party, *rest = path
        share = self._shares[party]
        share.queue.remove(rest, item, served=served)
        self.rows -= item.rows
        self.nbytes -= item.nbytes
        if served:
            share.start = share.finish
            self._clock = max(self._clock, share.finish)
        self._set_turn(party, share)

    def along(self, path: Sequence[Hashable]) -> "Iterator[Line[Item] | FairQueue[Item]]":
        """This queue and those that the path leads through, as far as anything waits there."""
        yield self
        if (share := self._shares.get(path[0])) is not None:
            yield from share.queue.along(path[1:])

    def ahead(self, path: Sequence[Hashable]) -> int:
        """A lower bound of the rows that are served before an item that arrives now.

        They are those of its own flow and, at every step, what other parties get meanwhile: as much as
        its own party or all they have, whichever is less. Other priorities are left out, as they may get
        less than that.
        """
        share = self._shares.get(path[0])
        if share is None:
            return 0
        rows = share.queue.ahead(path[1:])
        return rows if path[0] in self._weights else rows + min(rows, self.rows - share.queue.rows)

    def _set_turn(self, party: Hashable, share: Share[Item]) -> None:
        """Gives a party the turn of its present head; earlier turns of it become stale."""
        head = share.queue.head()
        if head is None:
            del self._shares[party]
            share.finish = math.nan
        elif (finish := share.start + head.rows / share.weight) != share.finish:
            share.finish = finish
            heappush(self._turns, (finish, next(self._tickets), share))
        if len(self._turns) > 2 * len(self._shares) + 8:
            self._turns = [(each.finish, next(self._tickets), each) for each in self._shares.values()]
            heapify(self._turns)
