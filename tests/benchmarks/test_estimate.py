from benchmarks.estimate import Estimate, half_range


def test_an_estimate_is_the_median_and_half_of_the_interquartile_range() -> None:
    found = Estimate.of([1.0, 2.0, 3.0, 4.0, 50.0])

    assert (found.value, found.spread) == (3.0, 1.0)
    assert str(found) == "3.000 ± 1.000"


def test_a_single_round_has_no_spread() -> None:
    assert half_range([1.0]) is None
    assert str(Estimate.of([1.0])) == "1.000"


def test_estimates_are_ordered_by_their_values_alone() -> None:
    low, high = Estimate(value=1.0, spread=9.0), Estimate(value=2.0)

    assert min(high, low) is low
    assert low == Estimate(value=1.0)
