"""What labels add to the metrics: numbers that are kept together with the labels, and shown after them."""

from bisect import bisect_left

from serving.metrics.feedback_definitions import KEPT
from serving.metrics.series import Key, Labels

_EDGES = {definition.name: definition.buckets for definition in KEPT}


class Additions(dict[Key, float]):
    """Amounts by series; `Series.add` shows them.

    Attributes:
        examples: For a counter by its name and label values, the prediction id that is its exemplar then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[tuple[str, Labels], str] = {}

    def add(self, name: str, labels: Labels, amount: float = 1) -> None:
        """Adds to a counter."""
        self._plus((name, labels, ""), amount)

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """Counts one value of a histogram; it is finite and not negative."""
        self._plus((name, labels, str(bisect_left(_EDGES[name], value))), 1)
        self._plus((name, labels, "sum"), value)

    def _plus(self, key: Key, amount: float) -> None:
        self[key] = self.get(key, 0) + amount
