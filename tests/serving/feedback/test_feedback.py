"""What becomes of labels, over a real store and a SQLite file."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.samples import Exemplar

from serving.feedback.feedback import Feedback
from serving.feedback.label import Label, LabelResult, Said
from serving.metrics.events import Metrics
from serving.metrics.prediction_ids import Prediction, PredictionIds
from tests.serving.feedback.parts import PREDICTION_IDS, feedback_over, sent
from tests.serving.world import World, new_metrics


@pytest.fixture
def metrics() -> Metrics:
    made = new_metrics()
    made.add_route("shapes/best", ["lora", "ssf"])
    return made


@pytest.fixture
def feedback(world: World, metrics: Metrics, tmp_path: Path) -> Iterator[Feedback]:
    with closing(feedback_over(world, metrics, PREDICTION_IDS, tmp_path / "labels.db")) as feedback:
        yield feedback


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


def label(feedback: Feedback, prediction: Prediction | str, *truth: str | int) -> LabelResult:
    """What becomes of one label."""
    prediction_id = prediction if isinstance(prediction, str) else PREDICTION_IDS.seal(prediction)
    (result,) = feedback.take([Label(prediction_id=prediction_id, said=Said(classes=truth))])
    return result


def test_a_label_counts_the_answer_and_each_member(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    labelled = label(feedback, prediction, "square")

    assert (labelled.status, labelled.correct, labelled.message) == ("matched", True, "")
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="correct") == 1
    here = {"domain": "unset"}
    assert count(metrics, "corolla_member_feedback_total", **here, member="lora", outcome="correct") == 1
    assert count(metrics, "corolla_member_feedback_total", **here, member="ssf", outcome="incorrect") == 1


@pytest.mark.parametrize("truth", ["star", 2])
def test_a_class_is_named_or_numbered(
    feedback: Feedback, metrics: Metrics, prediction: Prediction, truth: str | int
) -> None:
    labelled = label(feedback, prediction, truth)

    assert (labelled.status, labelled.correct) == ("matched", False)
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="incorrect") == 1


def test_a_repeated_label_counts_once(feedback: Feedback, metrics: Metrics, prediction: Prediction) -> None:
    prediction_id = PREDICTION_IDS.seal(prediction)

    assert [label(feedback, prediction_id, "square").status for _ in range(3)] == [
        "matched",
        "duplicate",
        "duplicate",
    ]
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="correct") == 1
    assert count(metrics, "corolla_feedback_submissions_total", status="duplicate") == 2


@pytest.mark.parametrize("truth", [["triangle"], [3], [], ["circle", "triangle"]])
def test_a_class_the_task_does_not_have_is_refused_and_may_be_corrected(
    feedback: Feedback, metrics: Metrics, prediction: Prediction, truth: list[str | int]
) -> None:
    prediction_id = PREDICTION_IDS.seal(prediction)
    labelled = label(feedback, prediction, *truth)

    assert labelled.status == "invalid_class"
    assert "send one of circle, square, star" in labelled.message
    assert count(metrics, "corolla_feedback_submissions_total", status="invalid_class") == 1
    assert label(feedback, prediction_id, "square").status == "matched"


def test_a_label_that_names_every_class_is_refused(feedback: Feedback, prediction: Prediction) -> None:
    labelled = label(feedback, prediction, "circle", 1, "star")

    assert labelled.status == "invalid_class"
    assert "names every class" in labelled.message
    assert "unknown" in labelled.message


def test_an_id_of_another_key_is_refused(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    foreign = PredictionIds(b"z" * 32).seal(prediction)

    for prediction_id in (foreign, "", "not an id", PREDICTION_IDS.seal(prediction)[:-2] + "xx"):
        assert label(feedback, prediction_id, "square").status == "invalid_token"
    counted = {"route": "unknown", "status": "invalid_token"}
    assert metrics.registry.get_sample_value("corolla_feedback_submissions_total", counted) == 4
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="correct") == 0


def test_a_prediction_of_a_task_that_is_gone_is_refused_with_the_reason(
    feedback: Feedback, prediction: Prediction
) -> None:
    labelled = label(feedback, replace(prediction, task_digest="0" * 64), "square")

    assert labelled.status == "invalid_class"
    assert "no longer in the store" in labelled.message


def test_the_latest_wrong_answer_is_the_exemplar_of_wrong_answers(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    def shown() -> list[Exemplar]:
        families = {family.name: family for family in metrics.registry.collect()}
        return [s.exemplar for s in families["corolla_feedback"].samples if s.exemplar is not None]

    label(feedback, prediction, "square")
    assert shown() == []

    wrong = PREDICTION_IDS.seal(replace(prediction, nonce="another"))
    label(feedback, wrong, "star")
    label(feedback, wrong, "star")

    (exemplar,) = shown()
    assert wrong.startswith(exemplar.labels["prediction_id"])
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="incorrect") == 1


def test_a_name_and_its_index_are_the_same_label_whatever_the_order_of_the_classes(
    feedback: Feedback, world: World, prediction: Prediction
) -> None:
    """Index 0 of `shapes` is a circle; that of `reordered` is a star."""
    other = world.store.tasks.get("reordered", world.backbone.digest).digest
    permuted = replace(prediction, task="reordered", task_digest=other, predicted=0, nonce="f" * 16)

    assert label(feedback, prediction, "square").status == "matched"
    assert label(feedback, prediction, 1).status == "duplicate"
    assert label(feedback, permuted, "star").correct
    assert label(feedback, permuted, 0).status == "duplicate"
    assert label(feedback, permuted, 1).status == "conflict"


def test_a_misspelt_class_is_refused_with_the_nearest(feedback: Feedback, prediction: Prediction) -> None:
    assert "did you mean square?" in label(feedback, prediction, "sqare").message


def test_a_set_is_right_where_the_answer_is_in_it(feedback: Feedback, prediction: Prediction) -> None:
    assert label(feedback, prediction, "square", "star").correct


def test_unknown_is_counted_and_says_neither_right_nor_wrong(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    (result,) = feedback.take([sent(prediction, unknown=True)])

    assert (result.status, result.correct) == ("matched", False)
    assert count(metrics, "corolla_feedback_unknown_total", domain="unset") == 1
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="incorrect") == 0


def test_a_correction_says_what_it_changed(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    labels = [
        sent(prediction, "star"),
        sent(prediction, "circle", revision=1),
        sent(prediction, 1, revision=2),
    ]
    results = feedback.take(labels)

    assert [str(result.status) for result in results] == ["matched", "corrected", "corrected"]
    assert [result.correct for result in results] == [False, False, True]
    change = {"domain": "unset", "from": "incorrect", "to": "correct"}
    assert count(metrics, "corolla_feedback_corrections_total", **change) == 1
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="incorrect") == 1
    assert count(metrics, "corolla_feedback_total", domain="unset", outcome="correct") == 0


def test_a_prediction_of_a_route_and_a_domain_that_are_gone_counts_for_others(
    feedback: Feedback, metrics: Metrics, prediction: Prediction
) -> None:
    gone = replace(prediction, route="shapes/gone", domain="gone", members=("old:1",), votes=(1,))

    assert label(feedback, gone, "square").status == "matched"
    there = {"route": "adhoc", "domain": "other", "outcome": "correct"}
    assert metrics.registry.get_sample_value("corolla_feedback_total", there) == 1


def test_one_call_may_have_labels_of_every_kind(feedback: Feedback, prediction: Prediction) -> None:
    forged = Label(prediction_id="forged", said=Said(classes=("star",)))
    labels = [sent(prediction, "star"), forged, sent(prediction, "star"), sent(prediction, "triangle")]

    results = feedback.take([*labels, sent(prediction, "circle")])

    expected = ["matched", "invalid_token", "duplicate", "invalid_class", "conflict"]
    assert [str(result.status) for result in results] == expected
