"""Progress of long work: bars on a terminal; in a log a line for each stage and for what a long one is at."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

QUIET_S = 30.0
"""A log says where a stage is after so many seconds without a line."""


class Reporter(Protocol):
    """Tells people how far a long piece of work is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` units; the callable advances it."""

    def note(self, text: str) -> None:
        """One line worth knowing."""

    def status(self, text: str) -> None:
        """What the stage under way is at: beside its bar, or a line of a log."""


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda n: None)

    def note(self, text: str) -> None:
        pass

    def status(self, text: str) -> None:
        pass


class Bars:
    """A reporter for people, and for logs."""

    def __init__(
        self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(file=sys.stderr)
        self._clock, self._said = clock, clock()
        self._bar: tuple[Progress, TaskID] | None = None

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A stage of `total` units; the callable advances it."""
        if not self._console.is_terminal:
            started = self._said = self._clock()
            yield self._heartbeat(name, total)
            self.note(f"{name}: {total} in {self._clock() - started:.1f} s")
            return
        columns = (
            TextColumn("{task.description:<30}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[status]}", markup=False),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=total, status="")
            self._bar = progress, task
            try:
                yield lambda n: progress.update(task, advance=n)
            finally:
                self._bar = None

    def note(self, text: str) -> None:
        """One line worth knowing."""
        self._said = self._clock()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """What the stage under way is at: beside its bar, or a line of a log."""
        if self._bar is None:
            return self.note(text)
        progress, task = self._bar
        progress.update(task, status=text)

    def _heartbeat(self, name: str, total: int) -> Callable[[int], None]:
        """Advances a stage of a log; a line says how far it is where nothing else was said for long."""
        started, done = self._clock(), 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            now = self._clock()
            if done < total and now - self._said >= QUIET_S:
                left = (now - started) / done * (total - done) if done else 0.0
                self.note(f"{name}: {done} of {total}, {duration(left)} left")

        return advance


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
