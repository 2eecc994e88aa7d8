import numpy as np
import pytest
from scipy import stats

from serving.monitor.intervals import around, negative, student, wilson


@pytest.mark.parametrize(("count", "n"), [(0, 5), (5, 5), (3, 7), (999, 1000), (500, 1000), (1, 10**6)])
def test_wilson_is_that_of_scipy(count: int, n: int) -> None:
    expected = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")

    assert wilson(count, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("freedom", [4, 9, 30, 300])
def test_students_quantile_is_that_of_scipy_to_a_percent(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    true_a, true_b, n_a, n_b = 0.97, 0.6, 150, 80
    covered = 0
    for a, b in zip(random.binomial(n_a, true_a, 2000), random.binomial(n_b, true_b, 2000), strict=True):
        value = a / n_a - b / n_b
        low, high = around(value, (a / n_a, wilson(a, n_a)), negative(b / n_b, wilson(b, n_b)))
        covered += low <= true_a - true_b <= high

    assert 0.93 < covered / 2000 < 0.975
