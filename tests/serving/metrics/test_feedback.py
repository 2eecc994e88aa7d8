from dataclasses import replace

import pytest

from serving.metrics.events import Metrics
from serving.metrics.feedback import Feedback
from serving.metrics.prediction_ids import Prediction, PredictionIds, RecentNonces
from tests.serving.world import World, new_metrics

PREDICTION_IDS = PredictionIds(b"k" * 32)


@pytest.fixture
def metrics() -> Metrics:
    made = new_metrics()
    made.add_route("shapes/best", ["lora", "ssf"])
    return made


@pytest.fixture
def feedback(world: World, metrics: Metrics) -> Feedback:
    return Feedback(
        store=world.store, prediction_ids=PREDICTION_IDS, nonces=RecentNonces(100), metrics=metrics
    )


@pytest.fixture
def prediction(world: World) -> Prediction:
    """A square, said `square` by lora and `star` by ssf."""
    return Prediction(
        route="shapes/best",
        domain="unset",
        task="shapes",
        task_digest=world.store.tasks.get("shapes", world.backbone.digest).digest,
        predicted=1,
        votes=(1, 2),
        members=("lora", "ssf"),
        confidence=0.75,
        created_at=1_700_000_000.0,
    )


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, {"route": "shapes/best", **labels}) or 0.0


def test_a_label_counts_the_answer_and_each_member(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    labelled = feedback.label(PREDICTION_IDS.seal(prediction), "square")

    assert (labelled.status, labelled.correct, labelled.message) == ("counted", True, "")
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="correct") == 1
    here = {"domain": "unset"}
    assert count(metrics, "corolla_member_feedback_total", **here, member="lora", outcome="correct") == 1
    assert count(metrics, "corolla_member_feedback_total", **here, member="ssf", outcome="incorrect") == 1


@pytest.mark.parametrize("truth", ["star", 2])
def test_a_class_is_named_or_numbered(
    feedback: Feedback, metrics: Metrics, prediction: Prediction, truth: str | int
) -> None:
    labelled = feedback.label(PREDICTION_IDS.seal(prediction), truth)

    assert (labelled.status, labelled.correct) == ("counted", False)
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="incorrect") == 1


def test_a_repeated_label_counts_once(feedback: Feedback, metrics: Metrics, prediction: Prediction) -> None:
    prediction_id = PREDICTION_IDS.seal(prediction)

    assert [feedback.label(prediction_id, "square").status for _ in range(3)] == [
        "counted",
        "duplicate",
        "duplicate",
    ]
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="correct") == 1
    assert count(metrics, "corolla_feedback_submissions_total", status="duplicate") == 2


@pytest.mark.parametrize("truth", ["triangle", 3, None])
def test_a_class_the_task_does_not_have_is_refused_and_may_be_corrected(
    feedback: Feedback, metrics: Metrics, prediction: Prediction, truth: str | int | None
) -> None:
    prediction_id = PREDICTION_IDS.seal(prediction)
    labelled = feedback.label(prediction_id, truth)

    assert labelled.status == "invalid_class"
    assert "send one of circle, square, star" in labelled.message
    assert count(metrics, "corolla_feedback_submissions_total", status="invalid_class") == 1
    assert feedback.label(prediction_id, "square").status == "counted"


def test_an_id_of_another_key_is_refused(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    foreign = PredictionIds(b"z" * 32).seal(prediction)

    for prediction_id in (foreign, "", "not an id", PREDICTION_IDS.seal(prediction)[:-2] + "xx"):
        assert feedback.label(prediction_id, "square").status == "invalid_token"
    counted = {"route": "unknown", "status": "invalid_token"}
    assert metrics.registry.get_sample_value("corolla_feedback_submissions_total", counted) == 4
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="correct") == 0


def test_a_prediction_of_a_task_that_is_gone_is_refused_with_the_reason(
    feedback: Feedback, prediction: Prediction
) -> None:
    labelled = feedback.label(PREDICTION_IDS.seal(replace(prediction, task_digest="0" * 64)), "square")

    assert labelled.status == "invalid_class"
    assert "no longer in the store" in labelled.message
