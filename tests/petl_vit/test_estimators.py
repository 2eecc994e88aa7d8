import math

import numpy as np
import pytest

from petl_vit.combine import softmax
from petl_vit.estimators import SCORES, estimate, log_confidence, negative_entropy, threshold


def random_answers(n: int, *, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = softmax(random.normal(size=(n, 5)) * scale)
    return p, random.random(n) < p.max(axis=1)


def test_scores_by_hand() -> None:
    p = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    assert log_confidence(p).tolist() == pytest.approx([math.log(0.7), 0.0])
    by_hand = 0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)
    assert negative_entropy(p).tolist() == pytest.approx([by_hand, 0.0])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n", [2, 20, 49, 1000])
def test_the_estimate_on_the_reference_itself_is_its_accuracy(score: str, n: int) -> None:
    """The published code is high by exactly one image here."""
    p, correct = random_answers(n, seed=n)
    scores = SCORES[score](p)
    assert estimate(scores, threshold(scores, correct)) == pytest.approx(correct.mean())


def test_the_threshold_is_the_quantile_that_is_taken_from_above() -> None:
    p, correct = random_answers(200)
    scores = log_confidence(p)
    assert threshold(scores, correct) == np.quantile(scores, 1 - correct.mean(), method="higher")


@pytest.mark.parametrize("score", SCORES)
def test_without_an_error_all_answers_count_as_right_and_without_a_right_one_none(score: str) -> None:
    """The published search starts at 0, and then says 0 % by entropy of a set without errors."""
    scores = SCORES[score](random_answers(30)[0])
    assert threshold(scores, np.ones(30, dtype=bool)) == -math.inf
    assert estimate(scores, -math.inf) == 1
    assert threshold(scores, np.zeros(30, dtype=bool)) == math.inf
    assert estimate(scores, math.inf) == 0


@pytest.mark.parametrize("score", SCORES)
def test_saturated_confidences_are_still_told_apart(score: str) -> None:
    """Of these the probability is exactly 1, so that no threshold on it divides them."""
    random = np.random.default_rng(1)
    margins = random.uniform(40, 600, 400)
    p = softmax(np.stack([margins, np.zeros(400), np.zeros(400)], axis=1))
    assert (p.max(axis=1) == 1).all()
    correct = random.random(400) < 0.3
    scores = SCORES[score](p)
    assert estimate(scores, threshold(scores, correct)) == pytest.approx(correct.mean(), abs=1 / 400)


def test_ties_are_all_on_one_side() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    correct = np.array([False, False, True, True, True])
    assert threshold(scores, correct) == 0.5
    assert estimate(scores, 0.5) == 0.8
