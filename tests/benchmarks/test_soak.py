from typing import Any

import numpy as np
import pytest

from benchmarks.soak import __main__ as soak
from benchmarks.soak.growth import slope
from benchmarks.soak.phases import recovery_s
from benchmarks.soak.traffic import Call

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
def test_a_short_soak_finds_only_right_answers_and_ends_with_its_figures(figures: Any) -> None:
    small = ("--image-size", "32", "--adapters", "6", "--threads", "1")

    phases = ("--phases", "churn,switches,clients,burst", "--rate", "10")

    found = figures(soak.main, *small, *phases, "--minutes", "0.1")

    assert found["requests"] > 0
    assert (found["wrong_answers"], found["failures"], found["problems"]) == (0, 0, 0)
    assert found["lost_at_stop"] == 0
    assert found["stop_s"] is not None
    assert set(found["slopes_an_hour"]) == {
        *("memory_mib", "heap_used_mib", "heap_free_mib"),
        *("handles", "threads", "tasks"),
    }
    assert len(found["at_rest"]["memory_mib"]) == 1
    assert set(found["p99_ms"]) == {*soak.KINDS}


def test_a_slope_and_its_interval_are_those_of_the_samples_after_the_first_quarter() -> None:
    times = np.arange(0.0, 3600.0, 5.0)
    warming = np.where(times < 800, 100.0, 0.0)
    noises = [np.random.default_rng(seed).normal(scale=2.0, size=len(times)) for seed in range(20)]

    growing = [slope(times.tolist(), (7.0 * times / 3600 + warming + noise).tolist()) for noise in noises]
    flat = [slope(times.tolist(), (warming + noise).tolist()) for noise in noises]

    assert all(found.low > 0.0 for found in growing)
    assert sum(found.low < 7.0 < found.high for found in growing) >= 15
    assert sum(found.low < 0.0 < found.high for found in flat) >= 15


def _call(sent: float, latency_s: float, outcome: str = "right") -> Call:
    return Call(phase="burst", sent=sent, latency_s=latency_s, outcome=outcome)


def test_a_burst_is_over_once_calls_are_answered_as_before() -> None:
    before = [_call(number, 0.1) for number in range(10)]
    after = [
        _call(10, 2.0),
        _call(11, 0.1, "refused"),
        _call(12, 1.0),
        *(_call(13 + i, 0.1) for i in range(9)),
    ]

    assert recovery_s(before, after, 10.0) == 3.0
    assert recovery_s(before, [_call(11, 2.0), _call(12, 1.0)], 10.0) is None
