"""Labels of predictions over a real channel."""

import pytest

from protos.corolla.v1 import classifier_pb2 as pb
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from serving.rpc.labels import MAX_LABELS
from tests.serving.rpc.requests import ask
from tests.serving.world import (
    WAIT_S,
    Running,
    World,
    encoded,
)


def test_labels_become_counters(client: Client, running: Running) -> None:
    results = ask(client, "best", *(encoded(i) for i in range(4)), domain="studio").results
    here = {"route": "shapes/best", "domain": "studio"}
    before = {o: running.value("corolla_feedback_total", **here, outcome=o) for o in ("correct", "incorrect")}
    truths: list[str | int] = [results[0].top[0].class_name, results[1].top[0].class_index]
    truths += [(results[2].top[0].class_index + 1) % 3, "triangle"]

    ids = [result.prediction_id for result in results]
    answered = client.feedback(zip(ids, truths, strict=True)).results
    again = client.feedback([(ids[0], truths[0]), ("forged", "star")]).results

    assert [(result.status, result.correct) for result in answered] == [
        (pb.FEEDBACK_STATUS_MATCHED, True),
        (pb.FEEDBACK_STATUS_MATCHED, True),
        (pb.FEEDBACK_STATUS_MATCHED, False),
        (pb.FEEDBACK_STATUS_INVALID_CLASS, False),
    ]
    assert [result.status for result in again] == [
        pb.FEEDBACK_STATUS_DUPLICATE,
        pb.FEEDBACK_STATUS_INVALID_TOKEN,
    ]
    assert "circle, square, star" in answered[3].message
    assert running.value("corolla_feedback_total", **here, outcome="correct") == before["correct"] + 2
    assert running.value("corolla_feedback_total", **here, outcome="incorrect") == before["incorrect"] + 1


def test_a_label_without_a_class_is_invalid(client: Client) -> None:
    prediction_id = ask(client, "lora").results[0].prediction_id
    reply = ClassifierStub(client.channel).Feedback(
        pb.FeedbackRequest(labels=[pb.Label(prediction_id=prediction_id)]), timeout=WAIT_S
    )

    assert reply.results[0].status == pb.FEEDBACK_STATUS_INVALID_CLASS
    assert "the label names no class" in reply.results[0].message


def test_too_many_labels_are_refused(client: Client) -> None:
    too_many = pb.FeedbackRequest(labels=[pb.Label(prediction_id="x")] * (MAX_LABELS + 1))
    with pytest.raises(RequestFailed) as caught:
        client.call(ClassifierStub(client.channel).Feedback, too_many)
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "labels")
    assert len(client.feedback([("x", "star")] * (MAX_LABELS + 1)).results) == MAX_LABELS + 1


def test_labels_may_come_back_to_another_server_with_the_same_key(world: World, client: Client) -> None:
    prediction_id = ask(client, "lora").results[0].prediction_id
    with Running(world.settings()) as replica, replica.client() as other:
        assert other.feedback([(prediction_id, "star")]).results[0].status == pb.FEEDBACK_STATUS_MATCHED
