"""A reference against values by hand: five images, two members, three classes."""

import math

import numpy as np
import pytest

from model_store.format.reference import (
    Reference,
    ReferenceCascade,
    ReferenceData,
    ReferenceMember,
    ReferenceRoute,
    ReferenceTerm,
)
from petl_vit import foreign
from petl_vit.cascade import Score, Stage
from petl_vit.combine import Combine
from petl_vit.confidence import EDGES
from petl_vit.errors import InvalidInput
from petl_vit.precision import Precision
from petl_vit.random_features import RandomFeatures
from training.measure.reference import Observed, reference

FIRST = [(0.8, 0.1, 0.1), (0.4, 0.5, 0.1), (0.2, 0.7, 0.1), (0.6, 0.2, 0.2), (0.9, 0.05, 0.05)]
SECOND = [(0.62, 0.28, 0.1), (0.62, 0.28, 0.1), (0.1, 0.82, 0.08), (0.3, 0.5, 0.2), (0.82, 0.09, 0.09)]
LABELS = np.array([0, 0, 1, 2, 1])
FEATURES = np.array([[1.0, 0.0], [3.0, 0.0], [1.0, 2.0], [3.0, 2.0], [2.0, 1.0]])
BASE = np.array([0, 2, 1, 0, 1])
LOGITS = np.log(np.array([FIRST, SECOND])).transpose(1, 0, 2)


def route(members: int = 2, *, combine: Combine = Combine.PROB, temperature: float = 1.0) -> ReferenceRoute:
    return ReferenceRoute.over(
        task="shapes",
        name="both",
        text="a:1, b:1",
        combine=combine,
        temperature=temperature,
        task_digest="1" * 64,
        members=[
            ReferenceMember(
                label=label,
                weight=1.0,
                terms=(ReferenceTerm(adapter=f"shapes/{label}:1", digest=digit * 64, alpha=1.0),),
            )
            for label, digit in list(zip("abcd", "abcd", strict=True))[:members]
        ],
    )


def made(observed: Observed, of: ReferenceRoute, classes: int = 3) -> Reference:
    found = reference(
        observed,
        route=of,
        data=ReferenceData(name="five", digest="2" * 64, images=len(observed.labels)),
        classes=tuple(f"class {i}" for i in range(classes)),
        precision=Precision.FP32,
    )
    assert Reference.parse(found.encode(), "key") == found
    return found


@pytest.fixture(scope="module")
def five() -> Reference:
    return made(Observed(logits=LOGITS, labels=LABELS, features=FEATURES, base=BASE), route())


def test_accuracies_and_agreements_are_counted(five: Reference) -> None:
    assert five.images == 5
    assert five.accuracy == pytest.approx(3 / 5)
    assert five.member_accuracies == pytest.approx((2 / 5, 3 / 5))
    assert five.agreement == pytest.approx((1 + 0.5 + 1 + 0.5 + 1) / 5)
    (pair,) = five.pairs
    assert (pair.first, pair.second, pair.agreements) == (0, 1, 3)
    assert (pair.both_correct, pair.first_only, pair.second_only, pair.both_wrong) == (2, 0, 1, 2)


def test_confidences_are_counted_at_the_edges_and_in_bins(five: Reference) -> None:
    """They are 0.71, 0.51, 0.76, 0.45 and 0.86; the last two are wrong."""
    assert five.confidence.mean == pytest.approx(0.658)
    shares = dict(zip(EDGES, five.confidence.cumulative, strict=True))
    assert [shares[edge] for edge in (0.4, 0.5, 0.6, 0.75, 0.8, 0.85, 0.9, 1.0)] == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8, 0.8, 1, 1]
    )
    assert five.confidence.images == (0, 0, 0, 0, 1, 1, 0, 2, 1, 0)
    assert five.confidence.correct == (0, 0, 0, 0, 0, 1, 0, 2, 0, 0)
    assert five.confidence.total[7] == pytest.approx(0.71 + 0.76)
    assert five.confidence.shares[7] == pytest.approx(0.4)


def test_thresholds_let_as_many_images_pass_as_are_right(five: Reference) -> None:
    assert five.atc["atc_mc"].threshold == pytest.approx(math.log(0.71))
    assert five.atc["atc_mc"].estimate == pytest.approx(five.accuracy)
    assert five.atc["atc_ne"].estimate == pytest.approx(five.accuracy)
    # In the order of certainty: 0.86, 0.76, 0.71.
    h = [-(p * np.log(p)).sum() for p in (np.array([0.71, 0.19, 0.1]),)]
    assert five.atc["atc_ne"].threshold == pytest.approx(-h[0])


def test_classes_are_counted(five: Reference) -> None:
    assert five.true == (2, 2, 1)
    assert five.predicted == (4, 1, 0)
    assert five.confusion == ((0, 0, 2), (1, 0, 1), (1, 1, 1), (2, 0, 1))


def test_features_have_mean_variance_plane_distance_and_random_features(five: Reference) -> None:
    assert five.features is not None
    assert five.features.mean == pytest.approx((2.0, 1.0))
    assert five.features.variance == pytest.approx((0.8, 0.8))
    assert five.features.distance == foreign.left_out(FEATURES).max()
    assert five.features.beyond == 0
    assert five.features.plane is not None
    assert five.features.plane.directions.tolist() == foreign.Plane.through(FEATURES).directions.tolist()
    random = five.features.random
    features = RandomFeatures(width=2, count=len(random.mean), bandwidth=random.bandwidth, seed=random.seed)
    assert random.mean == pytest.approx(features.of(FEATURES).mean(axis=0).tolist(), abs=1e-6)


def test_what_all_members_answer_alike_and_what_the_base_head_does_not_is_counted(five: Reference) -> None:
    assert five.unanimous == 3
    assert five.base_overrides == 2  # the answers are 0, 0, 1, 0, 0
    assert made(Observed(logits=LOGITS, labels=LABELS), route()).base_overrides is None


def test_estimates_and_rates_are_those_that_traffic_is_compared_with(five: Reference) -> None:
    assert five.estimates == pytest.approx({"confidence": 0.658, "vote": 0.8, "atc_mc": 0.6, "atc_ne": 0.6})
    assert five.rates == pytest.approx(
        {
            "error": 0.4,
            "unsure": 0.342,
            "disagreement": 0.4,
            "low_score": 0.4,
            "foreign": 0.0,
            "override": 0.4,
        }
    )
    alone = made(Observed(logits=LOGITS[:, :1], labels=LABELS), route(1, combine=Combine.MEAN))
    assert alone.rates.keys() == {"error", "unsure", "low_score"}


def test_one_image_in_twenty_is_beyond_what_is_usual() -> None:
    features = np.random.default_rng(0).normal(size=(200, 8))
    many = Observed(logits=np.tile(LOGITS, (40, 1, 1)), labels=np.tile(LABELS, 40), features=features)
    found = made(many, route()).features
    assert found is not None
    assert found.beyond == 9


def test_too_few_images_say_that_no_estimate_should_be_made(five: Reference) -> None:
    assert five.no_estimate == "5 images are fewer than 50"
    many = Observed(logits=np.tile(LOGITS, (10, 1, 1)), labels=np.tile(LABELS, 10))
    assert made(many, route()).no_estimate == ""


def test_a_set_without_errors_has_no_threshold_and_counts_everything_as_right() -> None:
    right = made(Observed(logits=LOGITS, labels=np.array([0, 0, 1, 0, 0])), route())
    assert right.accuracy == 1
    assert right.atc["atc_mc"].threshold is None
    assert right.atc["atc_mc"].estimate == 1
    assert right.threshold("atc_mc") == right.threshold("atc_ne") == -math.inf
    wrong = made(Observed(logits=LOGITS, labels=np.array([2, 2, 2, 2, 2])), route())
    assert (wrong.accuracy, wrong.atc["atc_ne"].estimate, wrong.threshold("atc_ne")) == (0, 0, math.inf)


def test_a_temperature_changes_confidence_and_not_accuracy() -> None:
    plain, cool = (
        made(Observed(logits=LOGITS, labels=LABELS), route(combine=Combine.MEAN, temperature=t))
        for t in (1.0, 0.5)
    )
    assert cool.accuracy == plain.accuracy
    assert cool.confidence.mean > plain.confidence.mean
    assert cool.route.digest != plain.route.digest


def test_images_without_finite_logits_are_counted_and_left_out() -> None:
    logits = LOGITS.copy()
    logits[4, 1, 0] = np.nan
    found = made(Observed(logits=logits, labels=LABELS, features=FEATURES), route())
    assert (found.images, found.invalid, found.data.images) == (4, 1, 5)
    assert found.accuracy == pytest.approx(3 / 4)
    with pytest.raises(InvalidInput, match="none of the 5 images of five with finite numbers"):
        made(Observed(logits=LOGITS * np.nan, labels=LABELS), route())


def test_one_member_has_no_pairs_and_votes_have_shares_as_confidence() -> None:
    alone = made(Observed(logits=LOGITS[:, :1], labels=LABELS), route(1, combine=Combine.MEAN))
    assert (alone.pairs, alone.agreement, alone.mutual_information) == ((), 1, 0)
    votes = made(Observed(logits=LOGITS, labels=LABELS), route(combine=Combine.VOTE))
    assert votes.confidence.mean == pytest.approx((1 + 0.5 + 1 + 0.5 + 1) / 5)


def test_a_cascade_is_measured_as_it_answers_and_its_pairs_by_all_members() -> None:
    plain = route(combine=Combine.CASCADE)
    stages = (Stage(threshold=0.75), Stage())
    cascade = ReferenceCascade(score=Score.CONFIDENCE, order=(1, 0), stages=stages)
    fields = {name: getattr(plain, name) for name in ReferenceRoute.model_fields if name != "digest"}
    of = ReferenceRoute.over(**{**fields, "cascade": cascade})
    assert of.digest != plain.digest
    found = made(Observed(logits=LOGITS, labels=LABELS), of)
    # The second member is asked first and settles images 2 and 4, at 0.82 both.
    assert found.confidence.images[8] == 2
    assert found.pairs == made(Observed(logits=LOGITS, labels=LABELS), route(combine=Combine.MEAN)).pairs


def test_many_images_are_measured_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = np.tile(LOGITS, (10, 1, 1)), np.tile(LABELS, 10)
    logits[7, 0, 0] = np.inf
    observed = Observed(logits=logits, labels=labels, features=np.tile(FEATURES, (10, 1)))
    whole = made(observed, route())
    monkeypatch.setattr("training.measure.reference._BLOCK", 7 * 6)
    parts = made(observed, route())
    assert parts.model_copy(update={"made_at": whole.made_at}) == whole
    assert whole.invalid == 1
