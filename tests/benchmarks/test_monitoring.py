import numpy as np
import pytest

from benchmarks import monitoring
from serving.answer.shares import place_of
from tests.benchmarks.conftest import Benchmark

pytestmark = pytest.mark.benchmarks


@pytest.mark.machine
def test_it_ends_with_the_throughput_of_a_service_with_all_signals_over_one_with_none(
    figures: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "ANSWERS", 10)
    small = ("--image-size", "32", "--rounds", "1", "--images", "4", "--precision", "fp32", "--classes", "5")

    found = figures(monitoring.main, *small)

    assert 0.3 < found["throughput_on_over_off"] < 1.5
    assert found["throughput_on_over_off_bf16"] is None
    assert found["frozen_images"] == 1
    assert found["answer_us"].keys() == found["answer_us_off"].keys() == {"1", "10"}
    assert (found["members"], found["classes"]) == (8, 5)


def test_as_many_images_are_in_the_frozen_share_as_of_all_images() -> None:
    images = monitoring.images_of(8, 100, 0.02)
    assert np.sum([place_of(image) < 0.02 for image in images]) == 2
    assert len({image.tobytes() for image in images}) == 100
