import pytest

from tests.training.study.report.small import small
from training.study.report.answers.standing import resolution, standing
from training.study.report.material import Material

ACCURACIES = {"photo": {"linear:1": 0.80, "bitfit:1": 0.91, "lora:1": 0.92, "full:1": 0.85}}


def test_models_that_a_paired_test_cannot_tell_from_the_best_are_tied_with_it() -> None:
    stand = standing(Material(evaluation=small(ACCURACIES)))
    assert stand is not None
    assert stand.best.label == "lora:1"
    assert [route.label for route in stand.tied] == ["lora:1", "bitfit:1"]
    assert stand.smallest.label == "bitfit:1"
    assert [one.route.label for one in stand.rivals] == ["bitfit:1", "full:1", "linear:1"]
    rival = stand.rival("bitfit:1")
    assert rival is not None
    assert rival.over.difference == pytest.approx(0.01)


def test_p_values_are_adjusted_for_the_number_of_comparisons() -> None:
    stand = standing(Material(evaluation=small(ACCURACIES)))
    assert stand is not None
    assert [one.p for one in stand.rivals] == pytest.approx([0.6, 0.0015, 0.0015])


def test_half_of_an_interval_says_what_cannot_be_told_apart() -> None:
    assert resolution(Material(evaluation=small(ACCURACIES))) == pytest.approx(0.02)
    assert resolution(Material(evaluation=small({"photo": {"lora:1": 0.9}}))) is None
