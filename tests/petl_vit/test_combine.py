"""Members' logits become one answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from petl_vit.combine import Combine, combine, entropy, softmax

LOGITS = arrays(np.float64, (2, 3, 4), elements=st.floats(-30, 30))


def test_the_mean_is_of_raw_logits_and_the_temperature_comes_after() -> None:
    logits = np.array([[[2.0, 0.0], [0.0, 6.0]]])
    answer = combine(logits, np.array([1.0, 1.0]), temperature=2.0)
    np.testing.assert_allclose(answer.probabilities[0], softmax(np.array([0.5, 1.5])))
    assert answer.predicted[0] == 1
    assert answer.agreement[0] == 0.5


def test_weights_are_relative() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3, 4))
    for rule in Combine:
        one, two = (combine(logits, np.array([1.0, 2.0, 3.0]) * s, rule=rule) for s in (1, 7))
        np.testing.assert_allclose(one.probabilities, two.probabilities)


def test_prob_averages_probabilities() -> None:
    logits = np.array([[[9.0, 0.0], [0.0, 1.0]]])
    answer = combine(logits, np.array([1.0, 3.0]), rule=Combine.PROB)
    expected = 0.25 * softmax(np.array([9.0, 0.0])) + 0.75 * softmax(np.array([0.0, 1.0]))
    np.testing.assert_allclose(answer.probabilities[0], expected)


def test_a_tied_vote_goes_to_the_higher_mean_probability() -> None:
    logits = np.array([[[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]]])
    answer = combine(logits, np.array([1.0, 1.0]), rule=Combine.VOTE)
    np.testing.assert_allclose(answer.probabilities[0], [0.5, 0.5, 0.0])
    assert answer.predicted[0] == 1


def test_a_weighted_vote_beats_a_confident_minority() -> None:
    logits = np.array([[[0.1, 0.0], [0.1, 0.0], [0.0, 50.0]]])
    assert combine(logits, np.array([1.0, 1.0, 1.0]), rule=Combine.VOTE).predicted[0] == 0


def test_identical_members_have_no_mutual_information() -> None:
    logits = np.tile(np.random.default_rng(1).normal(size=(3, 1, 4)), (1, 3, 1))
    answer = combine(logits, np.ones(3))
    np.testing.assert_allclose(answer.mutual_information, 0, atol=1e-12)
    np.testing.assert_allclose(answer.agreement, 1)


def test_certain_members_that_disagree_have_the_information_of_the_coin() -> None:
    answer = combine(np.array([[[500.0, 0.0], [0.0, 500.0]]]), np.ones(2))
    assert answer.mutual_information[0] == pytest.approx(np.log(2))


def test_entropy_takes_zero_probabilities() -> None:
    assert entropy(np.array([1.0, 0.0])) == 0
    assert entropy(np.array([0.5, 0.5])) == pytest.approx(np.log(2))


@given(logits=LOGITS, rule=st.sampled_from(list(Combine)), temperature=st.floats(0.1, 10))
def test_answers_are_distributions_with_bounded_statistics(
    logits: np.ndarray, rule: Combine, temperature: float
) -> None:
    answer = combine(logits, np.array([1.0, 2.0, 0.5]), rule=rule, temperature=temperature)
    np.testing.assert_allclose(answer.probabilities.sum(axis=-1), 1)
    assert (answer.probabilities >= 0).all()
    assert (answer.entropy >= -1e-9).all()
    assert (answer.entropy <= np.log(4) + 1e-9).all()
    assert (answer.mutual_information >= 0).all()
    best = answer.probabilities.max(axis=-1)
    chosen = np.take_along_axis(answer.probabilities, answer.predicted[:, None], axis=-1)[:, 0]
    np.testing.assert_allclose(chosen, best)


def test_huge_weights_do_not_overflow() -> None:
    logits = np.array([[[9.0, 0.0], [0.0, 1.0]]])
    answer = combine(logits, np.array([1e308, 1e308]), rule=Combine.PROB)
    np.testing.assert_allclose(answer.probabilities.sum(), 1)
    assert answer.predicted[0] == 0


@pytest.mark.parametrize("rule", [Combine.MEAN, Combine.PROB, Combine.VOTE])
def test_the_smallest_temperature_does_not_overflow(rule: Combine) -> None:
    answer = combine(np.array([[[2.0, 1.0, -3.0]]]), np.ones(1), rule=rule, temperature=5e-324)
    np.testing.assert_array_equal(answer.probabilities, [[1.0, 0.0, 0.0]])
    assert answer.confidences[0, 0] == 1
