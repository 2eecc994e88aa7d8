"""Figures of one route, against numbers from books, from scikit-learn and from torch."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from model_store.format.records import Cascade
from petl_vit.cascade import Stage
from petl_vit.combine import Combine
from tests.training.measure.made import answered, logits_of, random_logits
from training.measure import logits
from training.measure.calibration import calibration_error
from training.measure.logits import Stacked
from training.measure.scores import bins_of, by_class, confusion, expected_calibration_error, score, wilson

LABELS = np.random.default_rng(1).integers(0, 4, 500)
Z = random_logits(500, 4, seed=2, labels=LABELS.tolist())


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == 1


def test_likelihood_brier_and_confidence_agree_with_other_libraries() -> None:
    scored = answered(LABELS.tolist(), Z, temperature=2.0)
    p = torch.from_numpy(Z).double().div(2).softmax(dim=1).numpy()
    found = scored.honesty.scores(scored.correct)
    assert scored.accuracy == accuracy_score(LABELS, p.argmax(axis=1))
    assert found.nll == pytest.approx(log_loss(LABELS, p))
    assert found.confidence == pytest.approx(p.max(axis=1).mean())
    by_hand = [sum((p[i, c] - (LABELS[i] == c)) ** 2 for c in range(4)) for i in range(500)]
    assert found.brier == pytest.approx(np.mean(by_hand))
    confidence, correct = torch.from_numpy(p.max(axis=1)), torch.from_numpy(scored.correct)
    assert found.ece == pytest.approx(calibration_error(confidence, correct))


def test_calibration_error_of_two_bins_by_hand() -> None:
    confidence = np.array([0.9, 0.92, 0.91, 0.4, 0.41])
    correct = np.array([True, True, False, False, True])
    bins = bins_of(confidence, correct)
    assert [(one.count, one.correct) for one in bins if one.count] == [(2, 1), (3, 2)]
    assert bins[13].confidence == pytest.approx(0.91)
    expected = 2 / 5 * abs(0.5 - 0.405) + 3 / 5 * abs(2 / 3 - 0.91)
    assert expected_calibration_error(bins) == pytest.approx(expected)
    certain = bins_of(np.array([1.0]), np.array([True]))
    assert certain[-1].count == 1


def test_classes_are_counted_by_hand_and_one_without_images_has_no_figures() -> None:
    labels = [0, 0, 0, 1, 1, 2]
    predicted = [0, 0, 1, 1, 3, 0]
    scored = answered(labels, logits_of(predicted, 4))
    macro, figures = by_class(scored, 4)
    assert figures[0].model_dump() == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    )
    assert figures[1].model_dump() == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    )
    assert figures[2].model_dump() == {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1}
    assert figures[3].model_dump() == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert macro == pytest.approx((2 / 3 + 0.5 + 0) / 3)
    assert macro == pytest.approx(f1_score(labels, predicted, labels=[0, 1, 2], average="macro"))
    assert confusion(scored, 4) == ((2, 1, 0, 0), (0, 1, 0, 1), (1, 0, 0, 0), (0, 0, 0, 0))


def test_a_confusion_matrix_of_very_many_classes_is_left_out() -> None:
    assert confusion(answered([0, 1], logits_of([0, 1], 201)), 201) is None


def test_each_rule_combines_members_as_it_says() -> None:
    first, second = Z, random_logits(500, 4, seed=3, labels=LABELS.tolist())
    p = [torch.from_numpy(z).double().softmax(dim=1).numpy() for z in (first, second)]
    mean, prob, vote = (
        answered(LABELS.tolist(), first, second, rule=rule) for rule in Combine if rule != "cascade"
    )
    assert (mean.predicted == (first.astype(float) + second).argmax(axis=1)).all()
    assert (prob.predicted == (p[0] + p[1]).argmax(axis=1)).all()
    agreed = first.argmax(axis=1) == second.argmax(axis=1)
    assert (vote.predicted[agreed] == first.argmax(axis=1)[agreed]).all()
    assert mean.member_accuracies == [
        pytest.approx((z.argmax(axis=1) == LABELS).mean()) for z in (first, second)
    ]
    assert np.isfinite(vote.honesty.nll).all()  # nobody voted for some of the true classes
    assert vote.honesty.nll.max() == pytest.approx(-np.log(1e-15))


def test_a_cascade_is_scored_as_it_answers_and_costs_what_it_asks() -> None:
    cascade = Cascade.of(
        score="margin",
        order=(1, 0),
        stages=(Stage(threshold=2.0, temperature=2.0), Stage(temperature=0.5)),
        loss=0.01,
        measured={"accuracy_loss": 0, "cost": 1.5, "images": 9, "data": "a" * 64, "folds": 5},
    )
    first = logits_of([1, 1, 1, 1], 2, [9.0, 9, 9, 1])
    second = logits_of([0, 0, 1, 1], 2, [6.0, 1, 1, 6])  # settled with a margin of 4, at temperature 2
    found = score(
        Stacked((first, second)),
        np.array([0, 0, 1, 0]),
        np.ones(2),
        rule=Combine.CASCADE,
        cascade=cascade,
    )
    assert found.asked.tolist() == [1, 2, 2, 1]
    assert found.predicted.tolist() == [0, 1, 1, 1]
    assert found.agreement.tolist() == [1, 0.5, 1, 1]
    assert found.member_accuracies == [0.25, 0.75]  # as if each had been asked
    margins = np.array([6 / 2, (9 - 1) / 2 / 0.5, (9 + 1) / 2 / 0.5, 6 / 2])
    assert found.honesty.confidence == pytest.approx(1 / (1 + np.exp(-margins)))
    plain = score(
        Stacked((first, second)),
        np.array([0, 0, 1, 0]),
        np.ones(2),
        rule=Combine.CASCADE,
        cascade=cascade,
        staged=False,
    )
    assert plain.asked.tolist() == found.asked.tolist()
    assert plain.honesty.confidence == pytest.approx(1 / (1 + np.exp(-np.array([6.0, 4, 5, 6]))))


def test_images_by_the_block_are_scored_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answered(LABELS.tolist(), Z, Z[::-1])
    monkeypatch.setattr(logits, "_BLOCK", 50)
    blocks = answered(LABELS.tolist(), Z, Z[::-1])
    assert (blocks.predicted == whole.predicted).all()
    assert blocks.honesty.nll == pytest.approx(whole.honesty.nll)
    assert blocks.agreement == pytest.approx(whole.agreement)
