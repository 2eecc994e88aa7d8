import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from petl_vit.cascade import (
    NOT_ASKED,
    Score,
    Stage,
    answer,
    answers,
    members_asked,
    scores,
    settled,
)
from petl_vit.combine import combine, softmax
from petl_vit.errors import InvalidInput

LOGITS = arrays(np.float64, (5, 3, 4), elements=st.floats(-20, 20))


def test_the_scores_are_those_of_the_mean_logits() -> None:
    logits = np.array([[[2.0, 0.0, 1.0], [4.0, 2.0, 1.0]], [[0.0, 1.0, 0.0], [3.0, 0.0, 0.0]]])
    confidence = softmax(np.array([[1.5, 0.5, 0.5], [0.75, 0.25, 0.0]])).max(axis=-1)
    np.testing.assert_allclose(scores(logits, Score.MARGIN, 2.0), [1.0, 0.5])
    np.testing.assert_allclose(scores(logits, Score.CONFIDENCE, 2.0), confidence)
    np.testing.assert_allclose(scores(logits, Score.AGREEMENT, 2.0), confidence + np.array([1, 0]))


def test_a_score_that_reaches_the_threshold_settles_the_answer() -> None:
    logits = np.array([[[2.0, 0.0]], [[1.0, 0.0]], [[0.9, 0.0]]])
    stage = Stage(threshold=1.0)
    assert settled(logits, Score.MARGIN, stage).tolist() == [True, True, False]
    assert settled(logits, Score.MARGIN, Stage()).all()


def test_members_are_asked_until_the_first_settled_stage() -> None:
    logits = np.array(
        [
            [[5.0, 0.0], [0.0, 9.0], [0.0, 0.0]],  # settled by the first, whatever the second says
            [[1.0, 0.0], [5.0, 0.0], [0.0, 9.0]],  # by the mean of two
            [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]],  # never before the last
        ]
    )
    stages = [Stage(threshold=3.0), Stage(threshold=3.0), Stage()]
    assert members_asked(logits, Score.MARGIN, stages).tolist() == [1, 2, 3]


@given(logits=LOGITS, score=st.sampled_from(Score), low=st.floats(-1, 2), high=st.floats(-1, 20))
def test_each_answer_is_that_of_the_members_asked_and_rounds_agree(
    logits: np.ndarray, score: Score, low: float, high: float
) -> None:
    stages = [
        Stage(threshold=low, temperature=2.0),
        Stage(threshold=high, temperature=0.5),
        Stage(temperature=1.5),
    ]
    order = [2, 0, 1]
    whole = answers(logits, score, stages, order=order)
    for i, z in enumerate(logits):
        k = next(k for k in (1, 2, 3) if settled(z[None, order[:k]], score, stages[k - 1])[0])
        alone = answer(z[None, order[:k]], stages[k - 1])
        assert whole.asked[i] == k
        np.testing.assert_array_equal(whole.answer.probabilities[i], alone.probabilities[0])
        assert whole.answer.predicted[i] == alone.predicted[0]
        assert whole.answer.votes[i, order[:k]].tolist() == alone.votes[0].tolist()
        assert (whole.answer.votes[i, order[k:]] == NOT_ASKED).all()
        assert np.isnan(whole.answer.confidences[i, order[k:]]).all()
        assert whole.answer.agreement[i] == alone.agreement[0]


@given(LOGITS)
def test_a_cascade_that_asks_all_is_the_mean_ensemble(logits: np.ndarray) -> None:
    stages = [Stage(threshold=1e9), Stage(threshold=1e9), Stage(temperature=1.3)]
    whole = answers(logits, Score.MARGIN, stages)
    ensemble = combine(logits, np.ones(3), temperature=1.3)
    assert (whole.asked == 3).all()
    np.testing.assert_array_equal(whole.answer.probabilities, ensemble.probabilities)
    np.testing.assert_array_equal(whole.answer.votes, ensemble.votes)
    np.testing.assert_array_equal(whole.answer.mutual_information, ensemble.mutual_information)


def test_one_member_asked_agrees_with_itself() -> None:
    alone = answer(np.array([[[3.0, 1.0]]]), Stage())
    assert alone.agreement.tolist() == [1.0]
    assert alone.mutual_information.tolist() == [0.0]


@pytest.mark.parametrize("values", [{"threshold": math.inf}, {"threshold": math.nan}, {"temperature": 0}])
def test_a_stage_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="finite number"):
        Stage(**values)
