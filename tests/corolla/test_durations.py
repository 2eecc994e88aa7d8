"""Lengths of time on the command line."""

import click
import pytest

from corolla.durations import Duration, spelt


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("1.5h", 5400.0), (" 2d ", 172800.0), ("0", 0.0)],
)
def test_a_number_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    assert Duration(0).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "1w", "one hour", "nan", "inf", "-5", "1h30m"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration(0).convert(text, None, None)


def test_one_that_is_too_short_says_the_shortest() -> None:
    with pytest.raises(click.BadParameter, match="30s is shorter than 1m"):
        Duration(60).convert("30s", None, None)


def test_a_duration_is_spelt_as_it_may_be_typed() -> None:
    assert [spelt(seconds) for seconds in (86400, 7200, 90, 0.5, 0)] == ["1d", "2h", "90s", "0.5s", "0s"]
