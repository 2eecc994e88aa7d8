from typing import Any

import pytest

from benchmarks import scale
from benchmarks.scale import Traffic

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
def test_it_ends_with_its_figures(figures: Any) -> None:
    # A tenth of 40 adapters has room for one in flight and the one before, whose memory may not be free yet.
    small = ("--image-size", "32", "--small-image-size", "16", "--adapters", "40", "--in-flight", "1")

    found = figures(scale.main, *small, "--requests", "2", "--rounds", "1", "--precision", "fp32")

    keys = ("throughput_1000_over_1", "throughput_tenth_fits", "throughput_tenth_fits_uniform")
    assert all(isinstance(found[key], float) for key in keys)
    assert all(isinstance(found[f"{key}_64px"], float) for key in keys[:2])
    counts = ("10", "40", "tenth")
    variants = {f"{count} {traffic}" for count in counts for traffic in ("uniform", "zipf")}
    assert found["over_1"].keys() == variants | {"1 uniform"}


def test_zipf_traffic_asks_most_for_the_first_and_uniform_traffic_for_all_alike() -> None:
    names = [str(number) for number in range(100)]

    zipf, uniform = (Traffic(exponent).draw(names, 10_000) for exponent in (1.1, 0.0))

    assert zipf.count("0") > 5 * zipf.count("9") > 0
    assert 50 < uniform.count("0") < 150
