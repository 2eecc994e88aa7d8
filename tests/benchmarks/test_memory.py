from typing import Any

import pytest

from benchmarks import memory

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
def test_it_ends_with_its_figures(figures: Any) -> None:
    found = figures(memory.main, "--image-size", "32", "--adapters", "3", "--seconds", "1")

    parts = [found["extra_over_backbone_account"], found["extra_over_backbone_rss"]]
    assert found["extra_over_backbone"] == max(parts)
    assert 0 < found["account_bytes"] < found["backbone_bytes"]

    assert found["rss_torch_mib"] < found["rss_started_mib"] < found["rss_most_mib"]
    swing = found["rss_most_mib"] - found["rss_least_mib"]
    assert found["rss_swing_mib"] == pytest.approx(swing, abs=1e-3)
    beyond = found["rss_most_mib"] - found["rss_torch_mib"]
    assert found["rss_over_account"] == pytest.approx(beyond / found["account_mib"], rel=1e-2)
    assert found["images_under_load"] > 0
