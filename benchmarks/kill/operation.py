"""What is killed, and what is looked at afterwards. Knows no processes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Event:
    """What a process said before it was killed.

    Attributes:
        kind: `ready` once, then `begun` before each write and `done` after it: the write is acknowledged.
        facts: What is written; the same in both.
        step: Python calls and returns of its main thread since it was ready, where they are counted.
    """

    kind: str
    facts: tuple[str | int | float, ...] = ()
    step: int = 0


class Say(Protocol):
    """Tells the killer what has happened."""

    def __call__(self, kind: str, *facts: str | int | float) -> None: ...


@dataclass(kw_only=True)
class Found:
    """What was found after a restart.

    Attributes:
        lost: Acknowledged writes that are not there, or not as they were acknowledged.
        broken: Everything else that is wrong: half adapters, dangling names, work that cannot go on.
        leftovers: Rests of what was cut off, by kind; they do no harm, and `corolla store gc` removes them.
    """

    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    leftovers: Counter[str] = field(default_factory=Counter)

    def expect(self, kept: bool, text: str) -> None:
        """Notes an acknowledged write that was lost."""
        if not kept:
            self.lost.append(text)

    def expect_whole(self, whole: bool, text: str) -> None:
        """Notes what is not whole."""
        if not whole:
            self.broken.append(text)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One kind of write.

    Attributes:
        prepare: Fills a folder, of which each round has a copy.
        work: Writes again and again, until it is killed.
        check: Looks at the folder after the kill, in a new process, and goes on with what was cut off.
        drive: What another process does with the killed one while it lives, for servers; says what was
            acknowledged to it.
        writes: The kill falls within so many writes.
    """

    name: str
    prepare: Callable[[Path], None]
    work: Callable[[Path, Random, Say], None]
    check: Callable[[Path, Sequence[Event]], Found]
    drive: Callable[[str, Say], None] | None = None
    writes: int = 20


def acknowledged(told: Sequence[Event]) -> list[tuple[str | int | float, ...]]:
    """The writes that were acknowledged, in order."""
    return [event.facts for event in told if event.kind == "done"]


def cut_off(told: Sequence[Event]) -> tuple[str | int | float, ...] | None:
    """The write that was begun and not acknowledged."""
    return told[-1].facts if told and told[-1].kind == "begun" else None
