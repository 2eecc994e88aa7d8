"""Signals of answers against plain formulas, one image and one class at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petl_vit.combine import Combine, combine
from petl_vit.estimators import SCORES, estimate, threshold
from petl_vit.signals import METHODS, Signals, signals

TEMPERATURE = 1.7


def logits_of(n: int = 40, members: int = 8, classes: int = 10, *, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(n + members + classes).normal(size=(n, members, classes)) * scale


def said(logits: np.ndarray, rule: Combine = Combine.MEAN, temperature: float = TEMPERATURE) -> Signals:
    return signals(combine(logits, np.ones(logits.shape[1]), rule=rule, temperature=temperature))


def softmax(z: list[float]) -> list[float]:
    top = max(z)
    total = sum(math.exp(one - top) for one in z)
    return [math.exp(one - top) / total for one in z]


def test_every_signal_is_its_plain_formula() -> None:
    logits = logits_of()
    found = said(logits)
    for i, of_image in enumerate(logits.tolist()):
        p = softmax([sum(of_class) / len(of_image) / TEMPERATURE for of_class in zip(*of_image, strict=True)])
        answer, (second, first) = p.index(max(p)), sorted(p)[-2:]
        each = [softmax([z / TEMPERATURE for z in of_member]) for of_member in of_image]
        mean = [sum(of_class) / len(each) for of_class in zip(*each, strict=True)]
        assert found.confidence[i] == pytest.approx(first)
        assert found.margin[i] == pytest.approx(first - second)
        assert found.entropy[i] == pytest.approx(nats(p))
        information = nats(mean) - sum(map(nats, each)) / len(each)
        assert found.mutual_information[i] == pytest.approx(information)
        votes = [of_member.index(max(of_member)) for of_member in of_image]
        assert found.agreement[i] == pytest.approx(votes.count(answer) / len(votes))
        assert found.scores["atc_mc"][i] == pytest.approx(math.log(first))
        assert found.scores["atc_ne"][i] == pytest.approx(-nats(p))


def nats(p: list[float]) -> float:
    return -sum(share * math.log(share) for share in p if share > 0)


@pytest.mark.parametrize("rule", [Combine.MEAN, Combine.PROB, Combine.VOTE])
def test_many_images_have_the_signals_of_each_alone(rule: Combine) -> None:
    logits = logits_of(classes=100)
    together, alone = said(logits, rule), [said(of_image[None], rule) for of_image in logits]
    for name in ("confidence", "margin", "entropy", "mutual_information", "agreement"):
        each = [getattr(one, name)[0] for one in alone]
        np.testing.assert_allclose(getattr(together, name), each, rtol=1e-12, atol=1e-12)
    for name in SCORES:
        np.testing.assert_allclose(together.scores[name], [one.scores[name][0] for one in alone], rtol=1e-9)


def test_what_is_expected_on_the_reference_itself_is_its_accuracy() -> None:
    found = said(logits_of(n=300))
    correct = np.random.default_rng(0).random(300) < found.confidence
    thresholds = {name: threshold(scores, correct) for name, scores in found.scores.items()}

    expected = found.expected(thresholds)

    assert tuple(expected) == METHODS
    for name in SCORES:
        assert set(expected[name].tolist()) <= {0.0, 1.0}
        assert expected[name].mean() == estimate(found.scores[name], thresholds[name])
        assert expected[name].mean() == pytest.approx(correct.mean())


def test_without_thresholds_confidence_and_votes_are_expected() -> None:
    found = said(logits_of())
    expected = found.expected({})
    assert set(expected) == {"confidence", "vote"}
    np.testing.assert_array_equal(expected["confidence"], found.confidence)
    np.testing.assert_array_equal(expected["vote"], found.agreement)


def test_answers_that_are_surer_than_a_float_can_say_are_told_apart_by_their_scores() -> None:
    margins = np.linspace(40, 600, 30)
    logits = np.zeros((30, 1, 3))
    logits[:, 0, 1] = margins
    found = said(logits, temperature=1.0)
    assert (found.confidence == 1).all()
    for name in SCORES:
        assert (np.diff(found.scores[name]) > 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_that_is_not_finite_has_no_number_and_the_others_keep_theirs(bad: float) -> None:
    logits = logits_of(n=3)
    spoilt = logits.copy()
    spoilt[1, 2, 5] = bad
    with np.errstate(invalid="ignore"):
        found = said(spoilt)
        expected = found.expected({"atc_mc": -1.0, "atc_ne": -1.0})
    if not math.isfinite(bad) and bad != -math.inf:
        assert np.isnan(found.confidence[1])
        for name in ("confidence", "atc_mc", "atc_ne"):
            assert np.isnan(expected[name][1])
    clean = said(logits)
    np.testing.assert_allclose(found.confidence[[0, 2]], clean.confidence[[0, 2]])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e5, 1e5), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from([Combine.MEAN, Combine.PROB, Combine.VOTE]),
)
def test_all_shares_lie_between_none_and_all(logits: list[list[float]], rule: Combine) -> None:
    found = said(np.array([logits]), rule)
    for shares in (found.confidence, found.margin, found.agreement, *found.expected({}).values()):
        assert ((shares >= 0) & (shares <= 1)).all()
    assert (found.entropy >= 0).all()
    assert (found.mutual_information >= 0).all()
