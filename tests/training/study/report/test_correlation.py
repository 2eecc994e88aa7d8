import pytest
from scipy.stats import spearmanr

from training.study.report.correlation import rank_correlation


@pytest.mark.parametrize(("values", "p"), [(4, 2 / 24), (5, 2 / 120), (7, 2 / 5040)])
def test_the_p_value_of_the_same_order_counts_the_orders_that_there_are(values: int, p: float) -> None:
    found = rank_correlation(range(values), [3.0 * one for one in range(values)])
    assert (found.rank, found.p) == (pytest.approx(1), pytest.approx(p))


def test_of_many_values_with_ties_it_is_near_to_spearmans() -> None:
    a = [1, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    b = [2, 1, 4, 3, 9, 5, 5, 12, 7, 1, 10, 6]
    found, known = rank_correlation(a, b), spearmanr(a, b)
    assert found.rank == pytest.approx(known.statistic)
    assert found.p == pytest.approx(known.pvalue, abs=0.01)


def test_equal_values_have_no_order() -> None:
    assert rank_correlation([1, 1, 1, 1, 1], range(5)).p == 1
