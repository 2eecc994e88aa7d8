"""Labels over a real channel: when they are wished for, and when they cannot be kept."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from petl_vit.errors import InvalidInput
from protos.corolla.v1 import classifier_pb2 as pb
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.admin import AdminClient
from serving.client.messages import RequestFailed
from serving.server import Server
from tests.serving.rpc.requests import ask
from tests.serving.world import WAIT_S, Running, World, encoded

HERE = {"route": "shapes/best", "domain": "studio"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels") / "labels.db"


@pytest.fixture(scope="module")
def asking(world: World, path: Path) -> Iterator[Running]:
    """A server that wishes for every label, and keeps them in a file of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.feedback.database.BUSY_S", WAIT_S)
        with Running(world.settings(labels=str(path), label_share=1.0)) as running:
            yield running


def test_an_answer_says_that_its_label_is_wished_for_and_how_likely_that_was(asking: Running) -> None:
    assert asking.value("corolla_label_requests_total", **HERE, reason="sampled") == 0
    with asking.client() as client:
        (result,) = ask(client, "best", encoded(0), domain="studio").results
        client.feedback([(result.prediction_id, "star")])

    assert result.label_request.reason == pb.LABEL_REASON_SAMPLED
    assert result.label_request.inclusion_probability == 1
    assert asking.value("corolla_label_requests_total", **HERE, reason="sampled") == 1
    assert asking.value("corolla_feedback_moment_total", **HERE, moment="w") == 1


def test_a_label_of_an_adapter_that_left_memory_is_counted(asking: Running) -> None:
    with asking.client() as client:
        (result,) = ask(client, "lora:1", encoded(0)).results
        assert AdminClient(client).unload_adapter("lora:1", task="shapes").was_loaded
        (label,) = client.feedback([(result.prediction_id, result.top[0].class_index)]).results
    assert (label.status, label.correct) == (pb.FEEDBACK_STATUS_MATCHED, True)


def test_no_label_is_wished_for_where_the_share_is_nothing(world: World) -> None:
    with Running(world.settings(label_share=0.0)) as running, running.client() as client:
        (result,) = ask(client, "best", encoded(0)).results
    assert not result.HasField("label_request")


def test_a_full_disk_refuses_labels_and_the_server_goes_on(world: World, tmp_path: Path) -> None:
    def fill(connection: Connection) -> None:
        if str(tmp_path) in str(connection.engine.url):
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    settings = world.settings(labels=str(tmp_path / "labels.db"))
    with Running(settings) as running, running.client() as client:
        results = ask(client, "best", *map(encoded, range(40))).results
        event.listen(Engine, "begin", fill)
        try:
            with pytest.raises(RequestFailed) as caught:
                client.feedback([(result.prediction_id, "star") for result in results])
            assert ask(client, "best", encoded(0)).results[0].top
        finally:
            event.remove(Engine, "begin", fill)
        matched = {"route": "shapes/best", "status": "matched"}
        assert running.value("corolla_feedback_submissions_total", **matched) == 0

    assert (caught.value.code, caught.value.named_field) == ("RESOURCE_EXHAUSTED", "labels")
    assert "free space there" in str(caught.value)


def test_a_database_that_does_not_answer_refuses_labels_and_holds_up_no_answer(
    asking: Running, path: Path
) -> None:
    with asking.client() as client, closing(sqlite3.connect(path)) as other:
        prediction_id = ask(client, "best", encoded(0)).results[0].prediction_id
        other.execute("BEGIN IMMEDIATE")
        stub = ClassifierStub(client.channel)
        label = pb.Label(prediction_id=prediction_id, class_name="star")
        waiting = stub.Feedback.future(pb.FeedbackRequest(labels=[label]), timeout=WAIT_S)
        assert ask(client, "best", encoded(1)).results[0].top
        assert not waiting.done()
        other.rollback()
        assert waiting.result(WAIT_S).results[0].status == pb.FEEDBACK_STATUS_MATCHED


def test_a_server_whose_database_is_away_starts_and_refuses_labels(world: World) -> None:
    with Running(world.settings(labels="postgresql://127.0.0.1:9/labels")) as running:
        with running.client() as client:
            prediction_id = ask(client, "best", encoded(0)).results[0].prediction_id
            with pytest.raises(RequestFailed) as caught:
                client.feedback([(prediction_id, "star")])
        names = {family.name for family in running.server.service.metrics.registry.collect()}

    assert caught.value.code == "UNAVAILABLE"
    assert "send the labels again later" in str(caught.value)
    assert "corolla_feedback" not in names
    assert "corolla_label_requests" in names


def test_more_calls_than_may_wait_are_refused(asking: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.feedback.feedback.MAX_WAITING", 0)
    with asking.client() as client, pytest.raises(RequestFailed) as caught:
        client.feedback([("id", "star")])
    assert (caught.value.code, caught.value.named_field) == ("RESOURCE_EXHAUSTED", "labels")


@pytest.mark.parametrize(
    ("label", "field"),
    [
        (pb.Label(source=9), "labels[1].source"),  # type: ignore[arg-type]
        (pb.Label(labelled_at=Timestamp(seconds=2**60)), "labels[1].labelled_at"),
    ],
)
def test_a_label_that_cannot_be_read_refuses_its_call(running: Running, label: pb.Label, field: str) -> None:
    request = pb.FeedbackRequest(labels=[pb.Label(), label])
    with running.client() as client, pytest.raises(RequestFailed) as caught:
        client.call(ClassifierStub(client.channel).Feedback, request)
    assert (caught.value.code, caught.value.named_field) == (grpc.StatusCode.INVALID_ARGUMENT.name, field)


def test_settings_of_labels_that_cannot_work_stop_the_start(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for changes, field in (
        ({"labels": str(tmp_path / "file" / "labels.db")}, "labels"),
        ({"labels": "mysql://host/labels"}, "labels"),
        ({"label_keep_days": 10.0}, "label_keep_days"),
        ({"prediction_key_file": f"{tmp_path}/a,{tmp_path}/b"}, "prediction_key_file"),
        ({"prediction_key_file": f"{tmp_path}/new/a,{tmp_path}/old/b"}, "labels"),
    ):
        with pytest.raises(InvalidInput) as caught:
            Server(world.settings(**changes))
        assert caught.value.field == field


def test_ids_of_a_key_that_was_replaced_still_open(world: World, tmp_path: Path) -> None:
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    new.write_bytes(b"n" * 32)
    place = {"labels": str(tmp_path / "labels.db")}
    before = world.settings(prediction_key_file=str(old), **place)
    with Running(before) as running, running.client() as client:
        ids = [result.prediction_id for result in ask(client, "best", encoded(0), encoded(1)).results]
        assert client.feedback([(ids[0], "star")]).results[0].status == pb.FEEDBACK_STATUS_MATCHED
    both = world.settings(prediction_key_file=f"{new},{old}", **place)
    with Running(both) as running, running.client() as client:
        again = client.feedback([(each, "star") for each in ids]).results
    assert [each.status for each in again] == [pb.FEEDBACK_STATUS_DUPLICATE, pb.FEEDBACK_STATUS_MATCHED]
