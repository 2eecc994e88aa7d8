"""The classes of one route that have a series: a bounded number, those that it answers most often."""

from collections import Counter
from collections.abc import Sequence

MAX_CLASSES = 20
_LEAD = 1.1
"""A class takes the place of another that it is answered so much more often than: two do not take turns."""


_LONGEST = 128


def class_label(name: str) -> str:
    """The label of a class: its name, cut, and without what is not text and would spoil the scrape."""
    return name[:_LONGEST].encode(errors="replace").decode()


class TopClasses:
    """Counts all classes of a route exactly, and shows `MAX_CLASSES` of them.

    Where the task has no more classes, all are shown from the start.

    Args:
        classes: The labels of the task's.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._counts: Counter[str] = Counter()
        self.shown = list(dict.fromkeys(classes))[:MAX_CLASSES]

    def add(self, name: str) -> str | None:
        """Counts one answer.

        Returns:
            The class that is no longer shown, as this one has taken its place; None where nothing changed.
        """
        self._counts[name] += 1
        if name in self.shown:
            return None
        if len(self.shown) < MAX_CLASSES:
            self.shown.append(name)
            return None
        least = min(self.shown, key=self._counts.__getitem__)
        if self._counts[name] <= _LEAD * self._counts[least]:
            return None
        self.shown[self.shown.index(least)] = name
        return least

    def count(self, name: str) -> int:
        """How often a class was answered."""
        return self._counts[name]
