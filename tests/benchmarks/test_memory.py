from typing import Any

import pytest

from benchmarks import memory

pytestmark = pytest.mark.machine


@pytest.mark.slow
def test_it_ends_with_its_figures(figures: Any) -> None:
    found = figures(memory.main, "--image-size", "32", "--adapters", "3")

    parts = [found["extra_over_backbone_account"], found["extra_over_backbone_rss"]]
    assert found["extra_over_backbone"] == max(parts)
    assert 0 < found["account_bytes"] < found["backbone_bytes"]
