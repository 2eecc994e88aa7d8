"""What answers are scored by: the thresholds and the features of a reference."""

import numpy as np
import pytest

from model_store.format.reference import RandomFeatureMean, ReferenceFeatures, ReferenceThreshold
from serving.metrics.scoring import FARTHEST, Scoring
from tests.model_store.references import usable_reference

NONE = ReferenceThreshold(threshold=None, estimate=1.0)


def test_thresholds_that_tell_are_applied() -> None:
    atc = {"atc_mc": ReferenceThreshold(threshold=-0.1, estimate=0.5), "atc_ne": NONE}
    scoring = Scoring.of(usable_reference("lora", atc=atc))
    assert scoring.thresholds == {"atc_mc": -0.1}


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_without_a_right_answer_or_without_a_wrong_one_no_threshold_tells(accuracy: float) -> None:
    """The published code then estimates 0 % by entropy and 100 % by confidence."""
    reference = usable_reference("lora", atc={"atc_mc": NONE, "atc_ne": NONE}).model_copy(
        update={"accuracy": accuracy}
    )
    assert Scoring.of(reference).thresholds == {}


def test_a_distance_is_told_in_units_of_the_references() -> None:
    scoring = Scoring.of(usable_reference("lora"))  # mean 0, variance 1, 95 % within 2
    assert scoring.distance(np.array([3.0])) == pytest.approx(1.5)
    assert scoring.distance(np.array([0.0])) == 0


def test_features_of_another_backbone_have_no_distance() -> None:
    assert Scoring.of(usable_reference("lora")).distance(np.zeros(7)) is None
    assert Scoring.of(usable_reference("lora", features=None)).distance(np.zeros(1)) is None


def test_a_distance_is_finite_where_all_reference_images_are_alike() -> None:
    random = RandomFeatureMean(seed=0, bandwidth=1.0, mean=(0.1,))
    alike = ReferenceFeatures(mean=(1.0,), variance=(0.0,), distance=0.0, random=random)
    scoring = Scoring.of(usable_reference("lora", features=alike))
    assert scoring.distance(np.array([1.0])) == 0
    assert scoring.distance(np.array([2.0])) == FARTHEST
