import numpy as np
import pytest

from petl_vit.cascade import Score, Stage
from petl_vit.errors import InvalidInput
from tests.training.measure.test_cascade import members
from training.measure.cascade import LearntCascade, learn
from training.measure.cascade_validation import (
    FOLDS,
    STEPS,
    calibrated,
    cross_validate,
    folds,
    images_to_tell,
    least_told,
    outcome,
    paired_interval,
)

SURE, UNSURE, ELSE = [6.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 3.0, 0.0]


def test_losses_gains_and_members_asked_are_counted_as_by_hand() -> None:
    # Settled rightly; left right and turned wrong; settled wrongly, which asking would mend; and mended.
    logits = np.array([[SURE, UNSURE], [UNSURE, ELSE], [SURE, [-20.0, 0.0, 20.0]], [UNSURE, ELSE]])
    labels = np.array([0, 0, 2, 1])
    stages = (Stage(threshold=0.9), Stage())
    cascade = LearntCascade(score=Score.CONFIDENCE, order=(0, 1), stages=stages, expected_loss=0.0)
    found = outcome(cascade, logits, labels)
    assert (found.images, found.cost, found.settled) == (4, 1.5, (0.5, 0.5))
    assert (found.accuracy, found.ensemble, found.members) == (0.5, 0.75, (0.5, 0.75))
    assert (found.lost, found.gained, found.loss) == (1, 0, 0.25)
    assert found.cost_over_ensemble == 0.75


def test_a_cross_validation_counts_every_image_once_in_every_repeat_by_cascades_of_the_others() -> None:
    logits, labels = members(150)
    found = cross_validate(logits, labels, loss=0.01, seed=3)
    lost = gained = asked = 0
    parts = [*folds(labels, None, 3)]
    for heldout in parts:
        cascade = learn(logits[~heldout], labels[~heldout], loss=0.01)
        said = cascade.answers(logits[heldout])
        right = said.answer.predicted == labels[heldout]
        whole = logits[heldout].mean(axis=1).argmax(axis=-1) == labels[heldout]
        lost, gained = lost + (whole & ~right).sum(), gained + (right & ~whole).sum()
        asked += said.asked.sum()
    repeats = len(parts) / FOLDS
    assert np.sum(parts, axis=0).tolist() == [repeats] * len(labels)
    assert found.loss == pytest.approx((lost - gained) / repeats / len(labels))
    assert found.cost == pytest.approx(asked / repeats / len(labels))


def test_copies_of_an_image_are_in_one_fold() -> None:
    labels = np.array([0, 1] * 40)
    copies = [f"{i % 20}" for i in range(80)]
    for heldout in folds(labels, copies, 0):
        inside, outside = ({copies[i] for i in np.flatnonzero(part)} for part in (heldout, ~heldout))
        assert not inside & outside


def test_a_calibration_keeps_to_its_loss_and_is_the_same_for_the_same_seed() -> None:
    logits, labels = members(600)
    done = list[int]()
    first = calibrated(logits, labels, loss=0.01, advance=done.append)
    again = calibrated(logits, labels, loss=0.01)
    assert sum(done) == STEPS
    assert (first, first.validated.loss <= 0.01) == (again, True)
    assert first.validated.cost < 4
    assert first.cascade.stages[0].threshold is not None


def test_thresholds_are_tighter_where_more_is_lost_than_was_expected() -> None:
    # A tenth of the images is turned from wrong to right by a second member, hardly surer than the first, so
    # settling there seems to cost little. On a tenth both are wrong, on two tenths the second is.
    labels = np.random.default_rng(0).integers(0, 2, 600)
    right, kind = 2.0 * np.eye(2)[labels] - 1, (np.arange(600) % 10)[:, None]
    first = np.select([kind == 0, kind == 1], [-1.5 * right, -0.5 * right], 3 * right)
    second = np.select([kind == 0, kind == 1, kind < 4], [1.6 * right, -0.5 * right, -right], 3 * right)
    logits = np.stack([first, second], axis=1)
    assert cross_validate(logits, labels, loss=0.02).loss > 0.09
    found = calibrated(logits, labels, loss=0.02)
    assert found.validated.loss <= 0.02
    assert found.cascade.expected_loss <= 0.01


def test_a_loss_that_cannot_be_met_is_refused_with_the_best_that_can_be_had() -> None:
    logits, labels = members(300)
    with pytest.raises(InvalidInput) as error:
        calibrated(logits, labels, loss=0.0)
    assert error.value.field == "loss"
    assert "a loss of 0 cannot be met on these 300 images: the best that a cascade does is" in str(
        error.value
    )
    assert "of 4 members asked" in str(error.value)


def test_members_that_never_settle_an_answer_are_refused_too() -> None:
    labels = np.array([0, 1] * 60)
    right = 4 * np.eye(2)[labels]
    with pytest.raises(InvalidInput, match=r"no loss up to 0\.02 lets a cascade ask fewer than all 2"):
        calibrated(np.stack([right, -4 * right], axis=1), labels, loss=0.001)


@pytest.mark.parametrize(
    ("n", "message"), [(20, "20 images are fewer than 50"), (60, "no class has 5 different images")]
)
def test_too_few_images_are_refused(n: int, message: str) -> None:
    logits = np.random.default_rng(0).standard_normal((n, 2, 30))
    with pytest.raises(InvalidInput, match=message):
        calibrated(logits, np.arange(n) % 30, loss=0.01)


def test_copies_do_not_count_as_images_of_a_class() -> None:
    labels = np.repeat(np.arange(12), 5)
    copies = [f"{label} {place % 4}" for place, label in enumerate(labels)]
    with pytest.raises(InvalidInput, match="no class has 5 different images"):
        calibrated(np.zeros((60, 2, 12)), labels, loss=0.01, copies=copies)


def test_what_images_can_tell_follows_from_the_interval_without_a_difference() -> None:
    low, high = paired_interval(0, 0, 1797)
    assert (low, high) == (pytest.approx(-high), pytest.approx(0.00154, abs=1e-5))
    assert least_told(1797) == high
    assert least_told(images_to_tell(0.002)) <= 0.002 < least_told(images_to_tell(0.002) - 2)
    low, high = paired_interval(12, 4, 500)
    assert low < 8 / 500 < high
