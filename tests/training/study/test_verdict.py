"""When a trial ends before its last epoch."""

from dataclasses import replace

import pytest

from training.study.verdict import Yardstick

SEVEN = Yardstick(base=0.91, chance=0.143, classes=7, images=200, epochs=30)


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (0.143, "collapsed: 0.143 is chance for 7 classes"),
        (0.19, "collapsed: 0.190 is chance for 7 classes"),
        (0.43, "collapsed: 0.430 is under 60% of the base head's 0.910"),
        (0.55, ""),
        (0.95, ""),
    ],
)
def test_a_collapse_is_named(accuracy: float, said: str) -> None:
    assert SEVEN.collapsed(accuracy) == said


def test_where_the_base_head_is_near_chance_nothing_is_called_a_collapse() -> None:
    assert replace(SEVEN, base=0.15).collapsed(0.14) == ""


@pytest.mark.parametrize(
    ("images", "accuracy", "best", "hopeless"),
    [
        (200, 0.80, 0.90, True),
        (200, 0.84, 0.90, False),
        (20, 0.80, 0.90, False),
        (20, 0.50, 0.90, True),
        (10_000, 0.86, 0.90, False),
        (200, 1.0, 1.0, False),
    ],
)
def test_hopeless_is_five_points_behind_and_more_than_chance(
    images: int, accuracy: float, best: float, hopeless: bool
) -> None:
    assert replace(SEVEN, images=images).hopeless(accuracy, best) is hopeless


def test_a_trial_is_judged_after_a_third_of_its_epochs() -> None:
    assert next(epoch for epoch in range(1, 31) if SEVEN.warm(epoch)) == 10
    assert replace(SEVEN, epochs=1).warm(1)
