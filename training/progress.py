"""Progress of long work as bars on stderr; one plain line for each stage if stderr is not a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Tells people how far a long piece of work is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` units; the callable advances it."""

    def note(self, text: str) -> None:
        """One line worth knowing."""


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda n: None)

    def note(self, text: str) -> None:
        pass


class Bars:
    """A reporter for people, and for logs."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A stage of `total` units; the callable advances it."""
        if not self._console.is_terminal:
            started = time.monotonic()
            yield lambda n: None
            self.note(f"{name}: {total} in {time.monotonic() - started:.1f} s")
            return
        columns = (
            TextColumn("{task.description:<30}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda n: progress.update(task, advance=n)

    def note(self, text: str) -> None:
        """One line worth knowing."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
