"""What a label adds to the metrics."""

import math

import pytest

from serving.metrics.events import Metrics
from tests.serving.metrics.counting import counts, label, value
from tests.serving.world import new_metrics

HERE = {"route": "all", "domain": "unset"}


@pytest.fixture
def metrics() -> Metrics:
    made = new_metrics()
    made.add_route("all", ["ssf", "lora", "bitfit"])
    return made


def test_a_pairs_outcome_says_which_of_the_two_was_right(metrics: Metrics) -> None:
    label(metrics, **HERE, correct=True, members={"ssf": True, "lora": False, "bitfit": False})

    shown = {
        pair: counts(metrics, "corolla_feedback_pair_total", "outcome", route="all", pair=pair)
        for pair in ("lora:ssf", "bitfit:ssf", "bitfit:lora")
    }
    nothing = dict.fromkeys(("both_correct", "both_wrong", "first_only", "second_only"), 0)
    assert shown == {
        "lora:ssf": nothing | {"second_only": 1},
        "bitfit:ssf": nothing | {"second_only": 1},
        "bitfit:lora": nothing | {"both_wrong": 1},
    }


def test_a_members_that_the_route_has_no_longer_is_not_counted(metrics: Metrics) -> None:
    label(metrics, **HERE, correct=True, members={"ssf": True, "gone": False})

    assert value(metrics, "corolla_member_feedback_total", **HERE, member="ssf", outcome="correct") == 1
    assert counts(metrics, "corolla_member_feedback_total", "member", **HERE, outcome="incorrect") == {
        "ssf": 0,
        "lora": 0,
        "bitfit": 0,
    }


def test_bins_say_how_confidence_and_accuracy_go_together(metrics: Metrics) -> None:
    for correct, confidence in ((True, 0.91), (False, 0.95), (True, 1.0), (True, 0.3)):
        label(metrics, **HERE, correct=correct, members={}, confidence=confidence)

    def of_bins(name: str) -> dict[str, float]:
        return {bin_: n for bin_, n in counts(metrics, name, "bin", **HERE).items() if n}

    assert of_bins("corolla_feedback_bin_total") == {"9": 3, "3": 1}
    assert of_bins("corolla_feedback_bin_correct_total") == {"9": 2, "3": 1}
    sums = of_bins("corolla_feedback_bin_confidence_ratio_total")
    assert sums == {"9": pytest.approx(2.86), "3": pytest.approx(0.3)}


def test_only_requested_labels_have_moments_and_they_give_the_mean_and_its_error(metrics: Metrics) -> None:
    label(metrics, **HERE, correct=True, members={}, confidence=0.9)
    assert not any(counts(metrics, "corolla_feedback_moment_total", "moment", **HERE).values())

    drawn = [(True, 0.7, 0.5), (False, 0.6, 0.1), (True, 1.0, 0.25)]
    for correct, confidence, inclusion in drawn:
        label(metrics, **HERE, correct=correct, members={}, confidence=confidence, inclusion=inclusion)

    moment = counts(metrics, "corolla_feedback_moment_total", "moment", **HERE)
    weights = [1 / inclusion for *_, inclusion in drawn]
    surplus = [correct - confidence for correct, confidence, _ in drawn]
    mean = sum(w * d for w, d in zip(weights, surplus, strict=True)) / sum(weights)
    error = sum(w * w * (d - mean) ** 2 for w, d in zip(weights, surplus, strict=True))
    assert (moment["up"] - moment["down"]) / moment["w"] == pytest.approx(mean)
    spread = moment["w2_square"] - 2 * mean * (moment["w2_up"] - moment["w2_down"]) + mean**2 * moment["w2"]
    assert spread == pytest.approx(error)
    assert moment["wrong"] == pytest.approx(1 / 0.1)


def test_odd_confidences_are_left_out_and_a_label_before_its_prediction_counts_as_at_once(
    metrics: Metrics,
) -> None:
    label(metrics, **HERE, correct=True, members={}, confidence=math.nan, inclusion=0.5, delay_s=-3)

    assert value(metrics, "corolla_feedback_total", **HERE, outcome="correct") == 1
    assert not any(counts(metrics, "corolla_feedback_bin_total", "bin", **HERE).values())
    assert not any(counts(metrics, "corolla_feedback_moment_total", "moment", **HERE).values())
    assert value(metrics, "corolla_feedback_delay_seconds_sum", route="all") == 0
    assert value(metrics, "corolla_feedback_delay_seconds_count", route="all") == 1


def test_every_series_of_labels_is_there_at_the_start(metrics: Metrics) -> None:
    before = {sample for family in metrics.registry.collect() for sample in map(str, family.samples)}
    label(metrics, **HERE, correct=True, members={"ssf": True, "lora": False, "bitfit": True}, inclusion=0.5)
    after = {sample for family in metrics.registry.collect() for sample in map(str, family.samples)}
    assert len(after) == len(before)
