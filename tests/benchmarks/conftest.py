"""Runs a benchmark as people do, small, and reads the line that it ends with."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

TINY = ("--architecture", "test_vit")

Figures = Mapping[str, Any]
Benchmark = Callable[..., Figures]


@pytest.fixture
def figures(capsys: pytest.CaptureFixture[str]) -> Benchmark:
    """The JSON line of a benchmark's `main` with flags."""

    def run(main: Callable[[list[str]], None], *flags: str) -> Figures:
        main([*TINY, *flags])
        found: Figures = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert {"benchmark", "device", "cpu", "threads", "date", "versions"} <= found.keys()
        return found

    return run
