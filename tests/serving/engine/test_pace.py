import pytest

from serving.engine.pace import Pace


def test_it_is_not_known_before_a_full_batch_or_where_only_small_ones_ran() -> None:
    pace = Pace()
    assert pace.seconds_per_row == 0

    pace.measure(1, 5.0, full=False)

    assert pace.seconds_per_row == 0


def test_a_faster_batch_lowers_it_at_once_and_a_slower_full_one_raises_it_by_a_quarter_at_most() -> None:
    pace = Pace()
    for rows, seconds, full, expected in (
        (4, 8.0, True, 2.0),
        (2, 2.0, False, 1.0),  # faster, though small
        (1, 9.0, False, 1.0),  # small ones are slow per row
        (4, 40.0, True, 1.25),
        (4, 5.2, True, 1.3),
    ):
        pace.measure(rows, seconds, full=full)
        assert pace.seconds_per_row == pytest.approx(expected)


def test_what_is_left_of_a_batch_shrinks_with_time_and_ends_with_it() -> None:
    pace = Pace()
    pace.measure(4, 8.0, full=True)

    pace.begin(3, now=100.0)

    assert pace.remaining_s(100.0) == 6
    assert pace.remaining_s(104.5) == 1.5
    assert pace.remaining_s(1000.0) == 0
    pace.end()
    assert pace.remaining_s(100.0) == 0
