"""How a benchmark is asked and how it answers: flags, progress to stderr, a table, one JSON line last."""

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.estimate import Estimate

Figure = float | int | str | bool | Estimate | None
Value = Figure | Mapping[str, Figure]
Figures = Mapping[str, Value]


def parser(doc: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has; its docstring is its help."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="fewer rounds; within two minutes")
    return made


def stop_on_terminate() -> None:
    """Leaves by the usual way on SIGTERM, so that no process and no folder stays behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def progress(text: str) -> None:
    """Says what is being done, on stderr."""
    print(text, file=sys.stderr, flush=True)


def emit(name: str, tables: Sequence[Table], figures: Figures, *, packages: Sequence[str] = ()) -> None:
    """Prints the tables for people and, last, the figures with their context as one JSON line.

    Estimates are there by their values, and their spreads under `spread` by the same names.

    Args:
        packages: Distributions whose versions matter, besides our own, torch and timm.
    """
    for table in tables:
        Console().print(table)
    spreads = _spreads(figures)
    spread = {"spread": spreads} if spreads else {}
    print(json.dumps({"benchmark": name} | _rounded(figures) | spread | context(packages)), flush=True)


def context(packages: Sequence[str] = ()) -> dict[str, object]:
    """On what and when it was measured."""
    found = ("corolla", "torch", "timm", *packages)
    return {
        "device": "cpu",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in found},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _rounded(figures: Figures) -> dict[str, object]:
    return {
        name: _rounded(value) if isinstance(value, Mapping) else _shortened(value)
        for name, value in figures.items()
    }


def _shortened(value: Figure) -> Figure:
    number = value.value if isinstance(value, Estimate) else value
    return round(number, 4) if isinstance(number, float) else number


def _spreads(figures: Figures) -> dict[str, object]:
    spreads: dict[str, object] = {}
    for name, value in figures.items():
        if isinstance(value, Estimate):
            spreads[name] = _shortened(value.spread)
        elif isinstance(value, Mapping) and (inner := _spreads(value)):
            spreads[name] = inner
    return spreads
