"""What is counted of answers beside how sure they are: what is expected, margins, and the frozen share."""

import math

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.answers import Answered
from serving.metrics.events import Metrics
from serving.metrics.label_values import Domains
from tests.serving.metrics.counting import counts, predict, series, value

MEMBERS = ("lora", "ssf", "bitfit")
HERE = {"route": "all", "domain": "clinic-a"}
EXPECTED = {"confidence": 0.8, "vote": 2 / 3, "atc_mc": 1.0, "atc_ne": 0.0}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry(), Domains(["clinic-a"]))
    made.add_route("all", MEMBERS)
    return made


def test_what_methods_expect_is_summed_beside_the_images_that_they_scored(metrics: Metrics) -> None:
    predict(metrics, expected=EXPECTED, margin=0.7)
    predict(metrics, expected={"confidence": 0.5}, margin=0.1)

    correct = counts(metrics, "corolla_estimated_correct_total", "method", **HERE)
    images = counts(metrics, "corolla_estimated_predictions_total", "method", **HERE)
    assert correct == pytest.approx(EXPECTED | {"confidence": 1.3})
    assert images == {"confidence": 2, "vote": 1, "atc_mc": 1, "atc_ne": 1}
    assert value(metrics, "corolla_estimated_correct_squares_total", **HERE) == pytest.approx(0.89)
    assert value(metrics, "corolla_margin_ratio_sum", **HERE) == pytest.approx(0.8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_as_invalid_and_in_no_sum(metrics: Metrics, bad: float) -> None:
    predict(metrics, expected=dict.fromkeys(EXPECTED, bad), margin=bad, confidence=bad)

    assert value(metrics, "corolla_invalid_scores_total", route="all", member="ensemble") == 2
    assert set(counts(metrics, "corolla_estimated_predictions_total", "method", **HERE).values()) == {0}
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    assert all(math.isfinite(sample.value) for sample in samples)


def test_images_of_one_request_are_counted_together(metrics: Metrics) -> None:
    image = Answered(
        predicted=1, votes=(1, 1, 2), confidence=0.9, entropy=0.2, mutual_information=0, agreement=2 / 3
    )
    metrics.predictions("all", "clinic-a", [image] * 5)
    metrics.predictions("all", "clinic-a", [])

    assert value(metrics, "corolla_predictions_total", **HERE) == 5
    assert value(metrics, "corolla_member_vote_agreements_total", **HERE, member="ssf") == 5


def test_what_the_frozen_backbone_says_is_counted(metrics: Metrics) -> None:
    for override, distance in ((True, 0.7), (False, 1.0), (False, 1.2), (True, None)):
        metrics.frozen(route="all", domain="clinic-a", override=override, distance=distance)

    assert value(metrics, "corolla_frozen_predictions_total", **HERE) == 4
    assert value(metrics, "corolla_base_overrides_total", **HERE) == 2
    assert value(metrics, "corolla_feature_distance_ratio_count", **HERE) == 3
    assert value(metrics, "corolla_foreign_inputs_total", **HERE) == 1


def test_a_named_route_shows_these_series_at_zero_and_an_unnamed_one_those_it_can_have(
    metrics: Metrics,
) -> None:
    metrics.add_route("one", ["lora"])
    for route, methods in (
        ("all", set(EXPECTED)),
        ("one", set(EXPECTED) - {"vote"}),
        ("adhoc", {"confidence", "vote"}),
    ):
        here = {"route": route, "domain": "unset"}
        assert set(counts(metrics, "corolla_estimated_correct_total", "method", **here)) == methods
        assert set(counts(metrics, "corolla_estimated_predictions_total", "method", **here)) == methods
        frozen = series(metrics, "corolla_frozen_predictions_total", **here)
        assert len(frozen) == (route != "adhoc")
    assert value(metrics, "corolla_invalid_scores_total", route="all", member="frozen") == 0


def test_features_that_are_not_finite_count_for_the_frozen_backbone(metrics: Metrics) -> None:
    metrics.invalid_scores("all", "frozen")
    metrics.invalid_scores("adhoc", "frozen")

    assert value(metrics, "corolla_invalid_scores_total", route="all", member="frozen") == 1
    assert value(metrics, "corolla_invalid_scores_total", route="adhoc", member="ensemble") == 1
