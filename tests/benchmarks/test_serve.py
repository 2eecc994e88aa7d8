from typing import Any

import pytest

from benchmarks import serve

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
def test_it_ends_with_its_figures(figures: Any) -> None:
    small = ("--image-size", "32", "--requests", "8", "--rounds", "2", "--images", "40")
    found = figures(serve.main, *small, "--precision", "fp32")  # bf16 takes as long again, by the same way

    assert isinstance(found["served_over_inprocess"], float)
    assert found["rows_of_a_batch"] >= 1
    assert found["top1_agreement"] == 1.0
    assert found["served_over_inprocess_bf16"] is None
    assert found["bf16_reason"]
    assert isinstance(found["spread"]["served_over_inprocess"], float)


def test_rows_are_shared_over_batches_as_evenly_as_can_be() -> None:
    assert serve.shared(64, 4) == [16] * 4
    assert serve.shared(7, 3) == [3, 2, 2]
