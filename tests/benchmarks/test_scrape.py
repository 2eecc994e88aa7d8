import pytest

from benchmarks import scrape
from tests.benchmarks.conftest import Benchmark

pytestmark = pytest.mark.benchmarks


def test_it_ends_with_the_cost_of_a_scrape(figures: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [
        scrape.Variant(name="before", routes=20, counted=3, all_at_zero=True),
        scrape.Variant(name="after", routes=20, counted=3),
    ]
    monkeypatch.setattr(scrape, "VARIANTS", small)

    found = figures(scrape.main, "--domains", "4", "--rounds", "1")

    assert found["after"]["samples"] < found["before"]["samples"] / 1.5
    assert found["before"].keys() == {"samples", "kib", "cpu_ms", "late_ms"}
