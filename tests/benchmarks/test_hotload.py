import threading
from typing import Any

import pytest

from benchmarks import hotload
from benchmarks.hotload import Others

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
def test_it_ends_with_its_figures(figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotload, "CYCLES", 5)
    small = ("--image-size", "32", "--small-image-size", "16")

    found = figures(hotload.main, *small, "--adapters", "6", "--windows", "1", "--precision", "fp32")

    assert isinstance(found["added_p50_ms"], float)
    assert isinstance(found["other_p95_over_quiet"], float)
    assert found["cycles"] == hotload.CYCLES


def test_others_ask_until_the_action_is_over() -> None:
    asked: list[str] = []
    both = threading.Event()

    def ask(name: str) -> None:
        asked.append(name)
        if set(asked) == {"a", "b"}:
            both.set()

    latencies = Others(ask, ["a", "b"]).during(lambda: both.wait(60))

    assert len(latencies) == len(asked)
    assert set(asked) == {"a", "b"}
