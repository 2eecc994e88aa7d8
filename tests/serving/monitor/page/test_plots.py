"""Paths of small plots."""

import pytest

from serving.monitor.page.plots import Scale, bars, line, scale_of

FULL = Scale(low=0.0)


def test_a_line_goes_through_its_values_from_left_to_right() -> None:
    assert line([0, 5, 10], [0.0, 0.5, 1.0], FULL) == "M0 100L50 50L100 0"


def test_a_missing_value_breaks_the_line_and_one_alone_is_a_dot() -> None:
    assert line([0, 1, 2, 3, 4], [0.5, None, 0.5, 0.5, None], FULL) == "M0 50h0M50 50L75 50"


def test_one_moment_lies_at_the_right_and_none_at_all_is_no_path() -> None:
    assert line([7], [1.0], FULL) == "M100 0h0"
    assert line([], [], FULL) == ""


def test_values_outside_of_the_scale_lie_at_its_edge() -> None:
    assert line([0, 1], [0.2, 1.0], Scale(low=0.5)) == "M0 100L100 0"


def test_bars_are_as_high_as_their_share_of_the_largest_and_zero_has_none() -> None:
    assert bars([0, 1, 2], [1, 0, 2]) == "M0 100V50M100 100V0"
    assert bars([0, 1], [0, 0]) == ""


@pytest.mark.parametrize(
    ("values", "low"),
    [((0.93, 0.87), 0.8), ((0.9,), 0.9), ((1.0,), 0.9), ((0.04, None), 0.0), ((None,), 0.0)],
)
def test_a_scale_begins_at_the_tenth_below_the_lowest_value(
    values: tuple[float | None, ...], low: float
) -> None:
    assert scale_of(*values).low == pytest.approx(low)
