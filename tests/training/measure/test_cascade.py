import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from petl_vit.cascade import Score
from petl_vit.combine import Array, combine, softmax
from training.measure.calibration import fit_temperature
from training.measure.cascade import NEVER, Learner, fit, learn, order_of

Labels = NDArray[np.int64]


def members(
    n: int = 400, *, noises: tuple[float, ...] = (1.0, 1.1, 1.2, 1.3), seed: int = 0
) -> tuple[Array, Labels]:
    """Logits [n, K, 5] that are right where noise does not hide it, and the labels [n]."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 5, n)
    hard = generator.exponential(1.0, n)[:, None, None]
    noise = np.stack([s * generator.standard_normal((n, 5)) for s in noises], axis=1)
    return 3 * np.eye(5)[labels][:, None] + hard * noise, labels.astype(np.int64)


def test_thresholds_that_nothing_reaches_give_exactly_the_ensembles_answers() -> None:
    logits, labels = members()
    logits[:, 0] = np.eye(5)[(labels + 1) % 5] * 3  # the first to be asked would always be wrong
    cascade = Learner(logits, labels).cascade(0.0)
    asked_all = Learner(np.concatenate([logits, -10 * logits], axis=1), labels).cascade(0.0)
    for one, z in ((cascade, logits), (asked_all, np.concatenate([logits, -10 * logits], axis=1))):
        said = one.answers(z)
        whole = combine(z, np.ones(z.shape[1]))
        np.testing.assert_array_equal(said.answer.predicted, whole.predicted)


@pytest.mark.parametrize("score", Score)
def test_a_loss_of_nearly_everything_asks_one_member(score: Score) -> None:
    logits, labels = members()
    cascade = learn(logits, labels, loss=0.999, score=score)
    assert (cascade.answers(logits).asked == 1).all()


@pytest.mark.parametrize("score", Score)
def test_a_greater_loss_never_asks_more(score: Score) -> None:
    logits, labels = members()
    learner = Learner(logits, labels)
    losses = [0.0, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2]
    cascades = [learner.cascade(loss, score) for loss in losses]
    costs = [cascade.answers(logits).asked.mean() for cascade in cascades]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]
    assert all(cascade.expected_loss <= loss + 1e-9 for cascade, loss in zip(cascades, losses, strict=True))


def test_the_expected_loss_is_what_the_answers_lose_by_the_ensembles_probabilities() -> None:
    logits, labels = members()
    cascade = learn(logits, labels, loss=0.01)
    said = cascade.answers(logits)
    whole = softmax(logits.mean(axis=1) / cascade.stages[-1].temperature)
    lost = whole.max(axis=-1) - np.take_along_axis(whole, said.answer.predicted[:, None], axis=1)[:, 0]
    assert cascade.expected_loss == pytest.approx(lost.mean(), abs=1e-9)


def test_a_lower_threshold_would_lose_more_than_is_stated() -> None:
    logits, labels = members()
    cascade = learn(logits, labels, loss=0.01)
    in_order = Learner(logits, labels)
    tighter = [in_order.cascade(loss).threshold for loss in (0.0101, 0.012, 0.02)]
    assert all(threshold <= cascade.threshold for threshold in tighter)
    assert tighter[-1] < cascade.threshold


def test_neither_the_members_order_nor_that_of_the_images_matters() -> None:
    logits, labels = members()
    cascade = learn(logits, labels, loss=0.005)
    turned, shuffled = [2, 0, 3, 1], np.random.default_rng(1).permutation(len(labels))
    other = learn(logits[shuffled][:, turned], labels[shuffled], loss=0.005)
    assert tuple(turned[place] for place in other.order) == cascade.order
    assert other.threshold == pytest.approx(cascade.threshold, rel=1e-9)
    temperatures = [stage.temperature for stage in cascade.stages]
    assert [stage.temperature for stage in other.stages] == pytest.approx(temperatures, rel=1e-9)


def test_the_best_member_is_asked_first_and_a_useless_one_last() -> None:
    logits, labels = members(noises=(1.2, 40.0, 0.6, 1.3))
    order = order_of(logits, labels)
    assert order[0] == 2
    assert order[-1] == 1


def test_two_members_that_say_the_same_are_as_one() -> None:
    logits, labels = members(noises=(1.0,))
    cascade = learn(np.concatenate([logits, logits], axis=1), labels, loss=0.0)
    assert (cascade.answers(np.concatenate([logits, logits], axis=1)).asked == 1).all()


def test_an_answer_that_only_the_last_member_turns_is_never_settled_early() -> None:
    labels = np.array([0, 1] * 30)
    right = 4 * np.eye(2)[labels]
    logits = np.stack([right, -4 * right], axis=1)
    cascade = learn(logits, labels, loss=0.0)
    assert cascade.threshold == NEVER
    assert (cascade.answers(logits).asked == 2).all()


def test_temperatures_are_those_of_the_measured_calibration() -> None:
    logits, labels = members()
    found, nll = fit(logits[:, 0], labels)
    assert found == pytest.approx(
        fit_temperature(torch.from_numpy(logits[:, 0]), torch.from_numpy(labels)), rel=0.02
    )
    assert nll > 0


def test_confidences_are_as_high_as_answers_are_often_right_on_other_images() -> None:
    logits, labels = members(4000)
    cascade = learn(logits[:2000], labels[:2000], loss=0.005)
    said = cascade.answers(logits[2000:])
    right, confidence = said.answer.predicted == labels[2000:], said.answer.probabilities.max(axis=-1)
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.03)
