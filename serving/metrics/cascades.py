"""What is counted of cascades: how many members they ask, and whether all would answer the same."""

from serving.metrics.series import Labels, Series


class Cascades:
    """The cascades among the named routes, and their series; the caller holds the lock of `series`.

    Attributes:
        void: By route, whether its thresholds belong to other versions than those that answer.
    """

    def __init__(self, series: Series) -> None:
        self.void: dict[str, bool] = {}
        self._void = series.numbers["corolla_cascade_void"]
        self._asked = series.histograms["corolla_cascade_members_asked"]
        self._full = series.numbers["corolla_cascade_full_predictions_total"]
        self._agreed = series.numbers["corolla_cascade_full_agreements_total"]

    def mark(self, route: str, void: bool | None) -> None:
        """Whether the thresholds of a cascade do not apply; None for a route that is not a cascade."""
        if void is None:
            self.void.pop(route, None)
            self._void.values.pop((route,), None)
        else:
            self.void[route] = void
            self._void.set(int(void), (route,))

    def count(self, base: Labels, asked: int, as_all: bool | None) -> None:
        """One answer of so many members; and, of one that was put to all, whether all answer the same."""
        self._asked.observe(asked, base)
        if as_all is not None:
            self._full.add(base)
            self._agreed.add(base, int(as_all))
