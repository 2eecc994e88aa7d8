"""Processes that are killed with SIGKILL. They are forked from one that has imported everything already."""

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.kill.operation import Event, Found, Operation, acknowledged

LIMIT_S = 300.0
"""Nothing takes longer, on a busy machine either."""
_Processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, kw_only=True)
class Span:
    """How long some writes take."""

    seconds: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a process is killed, counted from when it is ready.

    Attributes:
        seconds: By another process, after so long; None where `step` decides.
        step: By itself, at so many Python calls and returns.
    """

    seconds: float | None = None
    step: int | None = None

    def __str__(self) -> str:
        return f"step {self.step}" if self.seconds is None else f"{1000 * self.seconds:.1f} ms"


def preload(*modules: str) -> None:
    """What processes have imported when they are forked."""
    _Processes.set_forkserver_preload(["torch", *modules])


def measured(operation: Operation, folder: Path, seed: int) -> Span:
    """How long an operation's writes take, of a process that is killed after them."""
    child = _Child(operation, folder, seed, Moment(step=sys.maxsize))
    started = time.monotonic()
    child.wait_until(lambda told: len(acknowledged(told)) >= operation.writes, LIMIT_S)
    seconds = time.monotonic() - started
    child.kill()
    return Span(seconds=seconds, steps=max(1, child.told[-1].step))


def killed(operation: Operation, folder: Path, seed: int, moment: Moment) -> list[Event]:
    """What a process said until it was killed."""
    child = _Child(operation, folder, seed, moment)
    if moment.seconds is None:
        child.wait_until(lambda told: False, LIMIT_S)
    else:
        child.wait_until(lambda told: False, moment.seconds)
    child.kill()
    return child.told


def checked(operation: Operation, folder: Path, told: Sequence[Event]) -> Found:
    """What a new process finds in the folder."""
    receiver, sender = _Processes.Pipe(duplex=False)
    process = _Processes.Process(target=_check, args=(operation, folder, told, sender))
    process.start()
    sender.close()
    found = Found(broken=["the check did not end"])
    try:
        if receiver.poll(LIMIT_S):
            found = receiver.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()
    return found


def in_child(function: Callable[..., None], *given: Any) -> None:
    """Runs something in a process of its own, which must succeed."""
    process = _Processes.Process(target=function, args=given)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} failed with {process.exitcode}")


class _Child:
    """A process that works until it is killed.

    Attributes:
        told: What it has said since it was ready; of a server, what it has acknowledged to its client.
    """

    def __init__(self, operation: Operation, folder: Path, seed: int, moment: Moment) -> None:
        self._receiver, sender = _Processes.Pipe(duplex=False)
        self._process = _Processes.Process(target=_work, args=(operation, folder, seed, moment.step, sender))
        self._process.start()
        sender.close()
        ready = self._receiver.recv() if self._receiver.poll(LIMIT_S) else None
        if ready is None or ready.kind != "ready":
            self._process.kill()
            raise RuntimeError(f"{operation.name} did not begin")
        self.told: list[Event] = []
        self._driver: threading.Thread | None = None
        if operation.drive is not None:
            given = (str(ready.facts[0]), self._say)
            self._driver = threading.Thread(target=operation.drive, args=given)
            self._driver.start()

    def wait_until(self, done: Callable[[Sequence[Event]], bool], seconds: float) -> None:
        """Listens until something was said, the process has ended, or time is over."""
        end = time.monotonic() + seconds
        while not done(self.told) and (left := end - time.monotonic()) > 0:
            try:
                if self._receiver.poll(min(left, 0.05 if self._driver else left)):
                    self.told.append(self._receiver.recv())
            except EOFError:
                return
            if self._driver is not None and not self._driver.is_alive():
                raise RuntimeError("the server's client has ended before it was killed")

    def kill(self) -> None:
        """Kills it, and listens to what it said before."""
        self._process.kill()
        self._process.join()
        if self._driver is not None:
            self._driver.join()
        try:
            while self._receiver.poll():
                self.told.append(self._receiver.recv())
        except (EOFError, OSError):
            pass
        if self._process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"it ended with {self._process.exitcode} before it was killed")

    def _say(self, kind: str, *facts: str | int | float) -> None:
        self.told.append(Event(kind=kind, facts=facts))


class _Steps:
    """Counts Python calls and returns of this thread, and kills the process at one of them."""

    def __init__(self, last: int) -> None:
        self.count, self._last = 0, last

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self.count += 1
        if self.count >= self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def _work(operation: Operation, folder: Path, seed: int, step: int | None, sender: Connection) -> None:
    _alone()
    steps = _Steps(step or sys.maxsize)

    def say(kind: str, *facts: str | int | float) -> None:
        sender.send(Event(kind=kind, facts=facts, step=steps.count))
        if kind == "ready" and step is not None:
            sys.setprofile(steps)

    operation.work(folder, random.Random(seed), say)


def _check(operation: Operation, folder: Path, told: Sequence[Event], sender: Connection) -> None:
    _alone()
    try:
        found = operation.check(folder, told)
    except Exception as error:  # whatever does not work after a restart is what is looked for
        found = Found(broken=[f"{type(error).__name__}: {error}"])
    sender.send(found)


def _alone() -> None:
    """One thread of torch, of which there is a process beside it."""
    import torch

    torch.set_num_threads(1)
