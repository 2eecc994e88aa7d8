"""Few labels and many predictions, against sums over the images themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.monitor.prediction_powered import Moments, post_stratified, prediction_powered

Array = NDArray[np.float64]


def counted(weight: Array, off: Array) -> Moments:
    """As servers count them."""
    up, down = np.maximum(off, 0), np.maximum(-off, 0)
    return Moments.counted(
        {
            "w": weight.sum(),
            "w2": (weight**2).sum(),
            "up": (weight * up).sum(),
            "down": (weight * down).sum(),
            "w2_up": (weight**2 * up).sum(),
            "w2_down": (weight**2 * down).sum(),
            "w2_square": (weight**2 * off**2).sum(),
        }
    )


def test_labels_of_equal_chance_correct_the_mean_prediction() -> None:
    random = np.random.default_rng(0)
    expected = random.uniform(0.5, 1, 5000)
    labelled = expected[:200]
    correct = (random.random(200) < labelled - 0.2).astype(float)

    found = prediction_powered(
        images=5000,
        expected=expected.sum(),
        squares=(expected**2).sum(),
        moments=counted(np.full(200, 25.0), correct - labelled),
    )

    assert found is not None
    value, (low, high) = found
    assert value == pytest.approx(expected.mean() + (correct - labelled).mean())
    off = correct - labelled
    spread = 1.972 * np.sqrt(off.var() / 199 + expected.var() / 5000)
    assert (value - low, high - value) == pytest.approx((spread, spread), rel=0.01)


def test_it_is_right_on_average_and_covers_where_disputed_images_are_labelled_more_often() -> None:
    random = np.random.default_rng(1)
    images, errors, naive, covered = 4000, [], [], 0
    for _ in range(300):
        # Predictions that expect too much: by 12 points on average, and by more where members dispute.
        dispute = random.beta(1, 4, images)
        expected = np.clip(1 - 0.6 * dispute, 0, 1)
        correct = (random.random(images) < expected - 0.6 * dispute).astype(float)
        chance = np.minimum(0.03 * (1 + 10 * dispute), 1)
        labelled = random.random(images) < chance
        found = prediction_powered(
            images=images,
            expected=expected.sum(),
            squares=(expected**2).sum(),
            moments=counted(1 / chance[labelled], (correct - expected)[labelled]),
        )
        assert found is not None
        truth = float(1 - 1.2 * 0.2)
        errors.append(found[0] - truth)
        naive.append(correct[labelled].mean() - truth)
        covered += found[1][0] <= truth <= found[1][1]

    assert abs(np.mean(errors)) < 0.005
    assert np.mean(naive) < -0.05
    assert 0.92 < covered / 300 <= 0.98


def test_predictions_that_are_good_make_the_interval_narrower_than_labels_alone() -> None:
    random = np.random.default_rng(2)
    expected = np.where(random.random(20_000) < 0.7, 0.98, 0.05)
    correct = (random.random(20_000) < expected).astype(float)

    found = prediction_powered(
        images=20_000,
        expected=expected.sum(),
        squares=(expected**2).sum(),
        moments=counted(np.full(100, 200.0), (correct - expected)[:100]),
    )

    assert found is not None
    labels_alone = 2 * 1.984 * correct[:100].std() / np.sqrt(99)
    assert found[1][1] - found[1][0] < labels_alone / 2


@pytest.mark.parametrize("labels", [10, 20, 50])
def test_few_labels_that_all_agree_with_sure_predictions_leave_room_for_errors(labels: int) -> None:
    """Of answers that are all expected to be right, 5 % are wrong, which few labels seldom show."""
    random, covered = np.random.default_rng(4), 0
    images, expected = 100.0 * labels, 0.999
    for _ in range(300):
        correct = (random.random(labels) < 0.95).astype(float)
        found = prediction_powered(
            images=images,
            expected=images * expected,
            squares=images * expected**2,
            moments=counted(np.full(labels, 100.0), correct - expected),
        )
        assert found is not None
        covered += found[1][0] <= 0.95 <= found[1][1]

    assert covered / 300 > 0.9


def test_few_labels_give_no_interval() -> None:
    moments = counted(np.full(9, 3.0), np.zeros(9))

    assert prediction_powered(images=100, expected=90, squares=None, moments=moments) is None
    assert prediction_powered(images=100, expected=90, squares=None, moments=Moments.counted({})) is None


def test_post_stratified_accuracy_undoes_that_unsure_answers_are_labelled_more_often() -> None:
    # The unsure bin has 20 % of the images and 40 % of the labels.
    images, labels = {"4": 200.0, "9": 800.0}, {"4": 40.0, "9": 60.0}
    correct = {"4": 22.0, "9": 54.0}

    found = post_stratified(images, labels, correct)

    assert sum(correct.values()) / sum(labels.values()) == 0.76
    assert found is not None
    assert found.accuracy == pytest.approx(0.2 * 22 / 40 + 0.8 * 54 / 60)
    assert found.covered == 1


def test_its_interval_covers_the_truth_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(3), 0
    rates = {"5": 0.4, "8": 0.75, "9": 0.97}
    images, labels = {"5": 200.0, "8": 300.0, "9": 500.0}, {"5": 60.0, "8": 40.0, "9": 30.0}
    truth = sum(images[name] * rates[name] for name in images) / 1000
    for _ in range(500):
        correct = {name: float(random.binomial(int(labels[name]), rates[name])) for name in images}
        found = post_stratified(images, labels, correct)
        assert found is not None
        covered += found.interval[0] <= truth <= found.interval[1]

    assert 0.93 < covered / 500 <= 0.99


def test_bins_without_labels_may_have_any_accuracy() -> None:
    found = post_stratified({"5": 250.0, "9": 750.0}, {"9": 400.0}, {"9": 400.0})

    assert found is not None
    assert found.accuracy == 1
    assert found.covered == 0.75
    assert found.interval[0] < 0.75
    assert found.interval[1] == 1


def test_labels_without_images_say_nothing() -> None:
    assert post_stratified({"5": 10.0}, {"9": 4.0}, {"9": 4.0}) is None
    assert post_stratified({}, {}, {}) is None
