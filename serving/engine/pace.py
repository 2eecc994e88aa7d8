"""The pace of the engine: how long rows take, as measured."""


class Pace:
    """Seconds per row of an engine that has enough to do, and what is left of its present batch.

    The pace is an estimate from below, for it refuses work: any faster batch lowers it at once; only full
    batches raise it (a small one is slow per row), by a quarter at most, so that an outlier is soon
    forgotten. It is 0 until a batch was measured as full.
    """

    def __init__(self) -> None:
        self.seconds_per_row = 0.0
        self._running_rows, self._running_since = 0, 0.0

    def begin(self, rows: int, now: float) -> None:
        """A batch begins to run."""
        self._running_rows, self._running_since = rows, now

    def end(self) -> None:
        """The batch is over, whatever became of it."""
        self._running_rows = 0

    def remaining_s(self, now: float) -> float:
        """How long the present batch still takes; 0 where none runs."""
        return max(0.0, self._running_rows * self.seconds_per_row - (now - self._running_since))

    def measure(self, rows: int, seconds: float, *, full: bool) -> None:
        """Learns from a batch.

        Args:
            full: Whether no more rows would have fitted.
        """
        sample, known = seconds / rows, self.seconds_per_row
        if known and sample < known:
            self.seconds_per_row = sample
        elif full:
            self.seconds_per_row = min(sample, 1.25 * known) if known else sample
