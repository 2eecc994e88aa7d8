"""Servers in processes of their own: started, measured with all their children, and never left behind."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket

import psutil

from benchmarks.stores import Shelf

ROOT = Path(__file__).parents[1]
START_S = 180.0
STOP_S = 20.0
PROGRAM = (sys.executable, "-m", "corolla")


class Tree:
    """A process and its children."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def cpu_seconds(self) -> float:
        """CPU time that the processes alive now have taken."""
        return sum(_cpu_seconds(process) for process in self._all())

    def private_bytes(self) -> int:
        """Memory that would be freed if all of it ended (what several of them share counts once at most)."""
        return sum(_private_bytes(process) for process in self._all())

    def proportional_bytes(self) -> int:
        """Its part of the machine's memory: what several processes share is divided among them."""
        return sum(_proportional_bytes(process) for process in self._all())

    def suspend(self) -> None:
        """Lets none of the processes run, until `resume`."""
        for process in self._all():
            with suppress(psutil.Error):
                process.suspend()

    def resume(self) -> None:
        """Lets all of the processes run again."""
        for process in self._all():
            with suppress(psutil.Error):
                process.resume()

    def stop(self) -> None:
        """Asks the process and its children to end; what still runs after `STOP_S` seconds is ended."""
        everything = self._all()
        # Not their children: TorchServe would start ended workers again.
        for process in everything[:1] + self._children():
            with suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(everything, timeout=STOP_S)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        self.process.wait(timeout=STOP_S)

    def _all(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return list(psutil.Process(self.process.pid).children())
        return []


@contextmanager
def running(
    command: Sequence[str], *, folder: Path, name: str, surroundings: Mapping[str, str] | None = None
) -> Iterator[Tree]:
    """A command that runs until the block ends; what it says goes to `folder/NAME.log`.

    Args:
        surroundings: Environment variables besides this process's own.
    """
    # Whose machine this is may have settings of their own.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")}
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # packages may come by it
    environment = {**inherited, "PYTHONPATH": os.pathsep.join(path), **(surroundings or {})}
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        )
        tree = Tree(process)
        try:
            yield tree
        finally:
            tree.stop()


def until_answered(url: str, tree: Tree, log: Path) -> None:
    """Waits until a URL answers 200.

    Raises:
        RuntimeError: The process ended, or took longer than `START_S`; with the end of its log.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and tree.process.poll() is None:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5) as reply:
            if reply.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text()[-2000:]}")


class Corolla:
    """Our server."""

    def __init__(self, tree: Tree, address: str, metrics: str) -> None:
        self.tree, self.address, self._metrics = tree, address, metrics

    def value(self, name: str) -> float:
        """One sample of its metrics, by its name and labels as they are exposed."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as reply:
            found = re.search(rf"^{re.escape(name)} (\S+)$", reply.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def corolla(
    found: Shelf, *flags: str, name: str = "corolla", program: Sequence[str] = PROGRAM
) -> Iterator[Corolla]:
    """`corolla serve` over a store, on free ports.

    Args:
        program: What starts `corolla`.
    """
    command = [*program, "serve", "--store", found.url, "--device", "cpu"]
    command += ["--port", "0", "--metrics-port", "0", "--prediction-key-file", str(found.key_file)]
    with running([*command, *flags], folder=found.folder, name=name) as tree:
        line = _until_said(r"gRPC (\S+), metrics (\S+)$", tree, found.folder / f"{name}.log")
        yield Corolla(tree, line[1], line[2])


def _until_said(pattern: str, tree: Tree, log: Path) -> "re.Match[str]":
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and tree.process.poll() is None:
        found = re.search(pattern, log.read_text(), re.MULTILINE)
        if found:
            return found
        time.sleep(0.1)
    raise RuntimeError(f"it did not start:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _cpu_seconds(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _private_bytes(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().uss)
    return 0


def _proportional_bytes(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0
