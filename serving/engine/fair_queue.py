"""A queue that parties share fairly, in memory: what waits, what it weighs, whose turn it is.

Knows nothing of time, engines or requests.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar


class Party(NamedTuple):
    """Who shares at one step of a path. The same name with another weight is another party.

    Attributes:
        weight: What it gets beside the others of its step, greater than 0.
    """

    name: Hashable
    weight: float = 1.0


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

    def add(self, path: Sequence[Party], item: Item, *, first: bool = False) -> None:
        self._items[item] = None
        if first:
            self._items.move_to_end(item, last=False)
        self.rows += item.rows
        self.nbytes += item.nbytes

    def remove(self, path: Sequence[Party], item: Item, *, served: bool) -> None:
        del self._items[item]
        self.rows -= item.rows
        self.nbytes -= item.nbytes

    def along(self, path: Sequence[Party]) -> "Iterator[Line[Item] | FairQueue[Item]]":
        yield self

    def ahead(self, path: Sequence[Party]) -> int:
        return self.rows


@dataclass(eq=False, kw_only=True)
class Share(Generic[Item]):
    """What one party has waiting, and its place in virtual time."""

    queue: "Line[Item] | FairQueue[Item]"
    start: float
    finish: float = math.nan  # of its head; NaN, equal to no turn, while nothing waits


class FairQueue(Generic[Item]):
    """Items, shared fairly among the parties named by the first step of their path, then by the next.

    Self-clocked fair queueing (Golestani, INFOCOM 1994). Virtual time counts rows by weight. Next is the
    party whose head would finish first had each been served in proportion to its weight. The clock is
    the latest finish served, so a party with nothing waiting owes and is owed nothing, and is forgotten.
    Every change is O(log parties), at each step of the path.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.nbytes = 0
        self._clock = 0.0
        self._lightest = math.inf
        self._shares: dict[Party, Share[Item]] = {}
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

    def add(self, path: Sequence[Party], item: Item, *, first: bool = False) -> None:
        """Lets an item wait behind all others of its path, or `first` of them."""
        party, *rest = path
        share = self._shares.get(party)
        if share is None:
            queue: Line[Item] | FairQueue[Item] = FairQueue() if rest else Line()
            share = Share(queue=queue, start=self._clock)
            self._shares[party] = share
            self._lightest = min(self._lightest, party.weight)
        share.queue.add(rest, item, first=first)
        self.rows += item.rows
        self.nbytes += item.nbytes
        self._set_turn(party, share)

    def remove(self, path: Sequence[Party], item: Item, *, served: bool) -> None:
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

    def along(self, path: Sequence[Party]) -> "Iterator[Line[Item] | FairQueue[Item]]":
        """This queue and those that the path leads through, as far as anything waits there."""
        yield self
        if (share := self._shares.get(path[0])) is not None:
            yield from share.queue.along(path[1:])

    def ahead(self, path: Sequence[Party]) -> int:
        """A lower bound of the rows that are served before an item that arrives now.

        They are those of its own flow and, at every step, what other parties get meanwhile: at least as
        much as one that has the least weight that any has had here, or all they have.
        """
        share = self._shares.get(path[0])
        if share is None:
            return 0
        rows = share.queue.ahead(path[1:])
        others = int(rows * self._lightest / path[0].weight)
        return rows + min(others, self.rows - share.queue.rows)

    def _set_turn(self, party: Party, share: Share[Item]) -> None:
        """Gives a party the turn of its present head; earlier turns of it become stale."""
        head = share.queue.head()
        if head is None:
            del self._shares[party]
            share.finish = math.nan
        elif (finish := share.start + head.rows / party.weight) != share.finish:
            share.finish = finish
            heappush(self._turns, (finish, next(self._tickets), share))
        if len(self._turns) > 2 * len(self._shares) + 8:
            self._turns = [(each.finish, next(self._tickets), each) for each in self._shares.values()]
            heapify(self._turns)
