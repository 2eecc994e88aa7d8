"""BBSE on mixtures of classes that are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.monitor.prior_shift import PriorShift, prior_shift

GIVEN = np.array([[0.9, 0.1, 0.05], [0.08, 0.7, 0.05], [0.02, 0.2, 0.9]])
"""P(answer | class): rows are answers."""


def confusion(of_class: list[int]) -> NDArray[np.float64]:
    return GIVEN * np.array(of_class)


def told(found: PriorShift | str) -> PriorShift:
    assert isinstance(found, PriorShift)
    return found


def test_it_finds_the_classes_shares_and_the_accuracy_whatever_those_of_the_reference() -> None:
    shares = np.array([0.1, 0.6, 0.3])

    for reference in ([100, 100, 100], [500, 50, 20]):
        found = told(prior_shift(confusion(reference), GIVEN @ shares * 1e6))

        assert found.shares == pytest.approx(shares)
        assert found.accuracy == pytest.approx(float(np.diag(GIVEN) @ shares))
        assert found.why == ""


def test_its_interval_covers_the_truth_as_often_as_it_says() -> None:
    random, shares, covered = np.random.default_rng(0), np.array([0.2, 0.5, 0.3]), 0
    truth = float(np.diag(GIVEN) @ shares)
    for _ in range(500):
        matrix = np.stack([random.multinomial(150, GIVEN[:, j]) for j in range(3)], axis=1).astype(float)
        found = told(prior_shift(matrix, random.multinomial(600, GIVEN @ shares).astype(float)))
        covered += found.interval[0] <= truth <= found.interval[1]

    assert 0.92 < covered / 500 <= 0.98


def test_answers_that_no_mixture_explains_are_not_believed() -> None:
    found = told(prior_shift(confusion([100, 100, 100]), np.array([0.0, 900.0, 100.0])))

    assert "no mixture of the classes" in found.why


@pytest.mark.parametrize(
    ("matrix", "answered", "why"),
    [
        (confusion([100, 100, 4]), [1, 1, 1], "a class has 4 images in the reference; 5 are needed"),
        (confusion([100, 100, 100]), [0, 0, 0], "no image in the window"),
        (np.full((3, 3), 10.0), [1, 1, 1], "can hardly be inverted"),
    ],
)
def test_it_says_why_nothing_can_be_told(matrix: NDArray[np.float64], answered: list[int], why: str) -> None:
    found = prior_shift(matrix, np.array(answered, dtype=float))

    assert isinstance(found, str)
    assert why in found
