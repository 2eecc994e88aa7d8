"""How far a sweep is: on a terminal a table that stays in its place, in a log a line for each trial's end."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from training.progress import Bars, duration
from training.study.trials import State, Trial, best

Trials = Mapping[str, Sequence[Trial]]


class Board(Bars):
    """Bars, and a table of trials.

    Args:
        epochs: Of a trial.
    """

    def __init__(
        self,
        epochs: int,
        console: Console | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        console = console or Console(stderr=True)
        super().__init__(console, clock=clock)
        self._epochs, self._out, self._now = epochs, console, clock
        self._live: Live | None = None
        self._started: tuple[float, float] | None = None
        self._told: set[str] = set()

    def show(self, trials: Trials) -> None:
        """The trials as they are now."""
        if self._started is None:
            self._started = self._now(), self._done(trials)
            self._told = {str(trial) for trial in _over(trials)}
        if self._out.is_terminal:
            self._update(trials)
        else:
            for trial in _over(trials):
                if str(trial) not in self._told:
                    self._told.add(str(trial))
                    self.note(f"{line(trial)}; {self._summary(trials)}")

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A stage of `total` units; the callable advances it."""
        self.close()
        with super().stage(name, total) as advance:
            yield advance

    def close(self) -> None:
        """Leaves the table as it stands."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextmanager
    def closing(self) -> Iterator["Board"]:
        try:
            yield self
        finally:
            self.close()

    def _update(self, trials: Trials) -> None:
        shown = Group(_table(trials), Text(self._summary(trials)))
        if self._live is None:
            self._live = Live(shown, console=self._out, refresh_per_second=2)
            self._live.start()
        self._live.update(shown)

    def _summary(self, trials: Trials) -> str:
        """`12 of 56 trials, best 0.931 (ssf 2: lr x 4), 12 min left for trials`"""
        every = [trial for several in trials.values() for trial in several]
        said = f"{len(_over(trials))} of {len(every)} trials"
        if (leader := best(every)) is not None:
            said += f", best {leader.value:.3f} ({leader}: {leader.settings})"
        left = self._left(trials)
        return said if left is None else f"{said}, {duration(left)} left for trials"

    def _left(self, trials: Trials) -> float | None:
        """Seconds that trials still take; None before anything is done, and when all is."""
        assert self._started is not None, "it is shown"
        since, before = self._started
        done, total = self._done(trials), sum(map(len, trials.values()))
        if not before < done < total:
            return None
        return (self._now() - since) / (done - before) * (total - done)

    def _done(self, trials: Trials) -> float:
        """In trials, with shares of those that run."""
        parts = [trial for several in trials.values() for trial in several if not trial.state.over]
        return len(_over(trials)) + sum(max(trial.values, default=0) / self._epochs for trial in parts)


def line(trial: Trial) -> str:
    """`lora 3 (rank 16, lr x 2): 0.925 in 34 s`"""
    said = f"{trial.value:.3f}" if trial.value is not None else f"{trial.state}, {trial.reason}"
    return f"{trial} ({trial.settings}): {said} in {duration(trial.seconds)}"


def _over(trials: Trials) -> list[Trial]:
    return [trial for several in trials.values() for trial in several if trial.state.over]


def _table(trials: Trials) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("method", "trials", "running", "pruned", "failed", "best", "by"):
        table.add_column(column)
    for method, several in trials.items():
        leader = best(several)
        counts = {state: sum(trial.state is state for trial in several) for state in State}
        table.add_row(
            method,
            f"{sum(trial.state.over for trial in several)}/{len(several)}",
            *(str(counts[state] or "") for state in (State.RUNNING, State.PRUNED, State.FAILED)),
            "" if leader is None else f"{leader.value:.3f}",
            "" if leader is None else leader.settings,
        )
    return table
