import pytest

from benchmarks import access
from tests.benchmarks.conftest import Benchmark

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
def test_it_ends_with_what_a_token_costs(figures: Benchmark) -> None:
    found = figures(access.main, "--image-size", "32", "--calls", "300", "--rounds", "2")

    assert found["open_us"] > 0
    for name in ("token", "limited"):
        assert isinstance(found[f"{name}_us"], float)
        assert 0.05 < found[f"{name}_over_open"] < 5
    assert isinstance(found["spread"]["token_over_open"], float)
