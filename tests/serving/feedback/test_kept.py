"""Labels that are kept: after a restart, on a full disk, in a file that others use, and for how long."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import event
from sqlalchemy.engine import Engine

from petl_vit.errors import Conflict, Overloaded, Unreachable
from serving.feedback.feedback import Feedback
from serving.feedback.label_store import LabelStore
from serving.metrics.events import Metrics
from tests.serving.feedback.parts import (
    PREDICTION_IDS,
    ROUTE,
    feedback_over,
    label_store,
    metrics_of_route,
    predictions,
    rows,
    sent,
    statuses,
    stream_of,
)
from tests.serving.feedback.recount import recounted, shown
from tests.serving.metrics.counting import counts
from tests.serving.world import World

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


def open_over(world: World, path: Path, metrics: Metrics | None = None, **changes: Any) -> Feedback:
    return feedback_over(world, metrics or metrics_of_route(), PREDICTION_IDS, path, **changes)


def submissions(metrics: Metrics) -> dict[str, float]:
    return counts(metrics, "corolla_feedback_submissions_total", "status", route=ROUTE)


def test_a_restarted_server_shows_what_it_counted_before(world: World, path: Path) -> None:
    made, before, after = predictions(world, 20), metrics_of_route(), metrics_of_route()
    labels = [*stream_of(made)]
    with closing(open_over(world, path, before)) as feedback:
        results = feedback.take(labels[:30])
    assert shown(after.registry.collect()) == {}

    with closing(open_over(world, path, after)) as feedback:
        assert shown(after.registry.collect()) == shown(before.registry.collect())
        results += feedback.take(labels[30:])

    kept = shown(after.registry.collect())
    assert kept == pytest.approx(recounted(rows(path)))
    assert submissions(after) == {status: statuses(results).count(status) for status in submissions(after)}


def test_a_series_whose_route_is_not_known_yet_appears_with_its_value(world: World, path: Path) -> None:
    with closing(open_over(world, path)) as feedback:
        feedback.take([sent(each, "star") for each in predictions(world, 9)])

    later = Metrics(CollectorRegistry())
    with closing(open_over(world, path, later)):
        assert submissions(later) == {}
        later.add_route(ROUTE, ("lora",))
        assert submissions(later)["matched"] == 9


def test_another_replica_counts_for_itself_and_knows_what_the_first_one_kept(
    world: World, path: Path
) -> None:
    (prediction,) = predictions(world, 1)
    with closing(open_over(world, path)) as feedback:
        feedback.take([sent(prediction, "star")])
    other = metrics_of_route()
    with closing(open_over(world, path, other, replica="other")) as feedback:
        assert statuses(feedback.take([sent(prediction, "star")])) == ["duplicate"]

    assert (submissions(other)["matched"], submissions(other)["duplicate"]) == (0, 1)


@pytest.fixture
def full_disk(path: Path) -> Iterator[list[bool]]:
    """SQLite says that the disk is full once this list has an element: it may not make the file larger."""
    full: list[bool] = []

    def limit(connection: Any) -> None:
        if str(path) in str(connection.engine.url):
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar() if full else 2**30
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "begin", limit)
    yield full
    event.remove(Engine, "begin", limit)


def test_a_full_disk_refuses_all_labels_of_a_call_and_counts_none(
    world: World, path: Path, full_disk: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    made, metrics = predictions(world, 400), metrics_of_route()
    with closing(open_over(world, path, metrics)) as feedback:
        feedback.take([sent(made[0], "star")])
        before = shown(metrics.registry.collect())
        full_disk.append(True)
        with caplog.at_level(logging.WARNING), pytest.raises(Overloaded) as caught:
            feedback.take([sent(each, "star") for each in made])
        assert shown(metrics.registry.collect()) == before
        assert "free space there" in str(caught.value)
        assert (caught.value.retry_after_s or 0) > 1
        assert "labels were refused" in caplog.text

        full_disk.clear()
        results = feedback.take([sent(each, "star") for each in made])

    assert statuses(results) == ["duplicate"] + ["matched"] * 399
    assert shown(metrics.registry.collect()) == pytest.approx(recounted(rows(path)))


def test_a_file_that_another_program_holds_is_busy(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.feedback.database.BUSY_S", 0.01)
    (prediction,) = predictions(world, 1)
    with closing(open_over(world, path)) as feedback, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match="is busy"):
            feedback.take([sent(prediction, "star")])
        other.rollback()
        assert statuses(feedback.take([sent(prediction, "star")])) == ["matched"]


def test_a_file_that_is_moved_away_takes_no_label_along(world: World, path: Path, tmp_path: Path) -> None:
    first, second = predictions(world, 2)
    elsewhere = tmp_path / "elsewhere.db"
    with closing(open_over(world, path)) as feedback:
        feedback.take([sent(first, "star")])
        path.rename(elsewhere)
        for _ in range(2):
            with pytest.raises(Unreachable, match="moved away or replaced"):
                feedback.take([sent(second, "star")])
        path.touch()
        with pytest.raises(Unreachable, match="put it back, or restart the server"):
            feedback.take([sent(second, "star")])

        elsewhere.rename(path)
        assert statuses(feedback.take([sent(second, "star")])) == ["matched"]
    assert [row["nonce"] for row in rows(path)] == [first.nonce, second.nonce]


def test_nothing_to_forget_is_looked_for_once(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def prune(store: LabelStore, now: float) -> int:
        looks.append(now)
        return 0

    monkeypatch.setattr(LabelStore, "prune", prune)
    with closing(open_over(world, path)) as feedback:
        feedback.take([sent(each, "star") for each in predictions(world, 3)] * 400)
        feedback.tend()
    assert len(looks) == 1


def test_a_fault_while_old_labels_are_looked_for_is_told_and_ends_nothing(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(store: LabelStore, now: float) -> int:
        raise ValueError("of a row that nobody can read")

    monkeypatch.setattr(LabelStore, "prune", fail)
    with closing(open_over(world, path)) as feedback:
        feedback.take([sent(each, "star") for each in predictions(world, 3)] * 400)
        feedback.tend()
    assert "of a row that nobody can read" in caplog.text


def test_a_server_that_took_the_name_of_a_replica_ends_what_the_other_one_counts(
    world: World, path: Path
) -> None:
    first, second = predictions(world, 2)
    metrics = metrics_of_route()
    with closing(open_over(world, path)) as old, closing(open_over(world, path, metrics)) as new:
        old.take([sent(first, "star")])
        new.take([sent(second, "star")])
        with pytest.raises(Conflict, match="another server counts labels as 'here'") as caught:
            old.take([sent(second, "star")])
        assert "--replica" in str(caught.value)
        assert submissions(metrics)["matched"] == 2


def test_a_server_that_looks_and_finds_its_port_taken_leaves_the_name_to_the_one_that_runs(
    world: World, path: Path
) -> None:
    first, second = predictions(world, 2)
    with closing(open_over(world, path)) as running, closing(label_store(path)) as other:
        running.take([sent(first, "star")])
        assert other.look()
        assert statuses(running.take([sent(second, "star")])) == ["matched"]


def test_labels_of_old_predictions_are_late_and_may_be_so_for_a_clock_that_ran_back(
    world: World, path: Path
) -> None:
    now = 1_790_000_000.0
    old, recent, future = (
        replace(each, created_at=now + days * DAY_S)
        for each, days in zip(predictions(world, 3), (-31, -29, 2), strict=True)
    )
    metrics = metrics_of_route()
    with closing(open_over(world, path, metrics, window_days=30, clock=lambda: now)) as feedback:
        results = feedback.take([sent(each, "star") for each in (old, recent, future)])

    assert statuses(results) == ["late", "matched", "matched"]
    assert "31.0 days old" in results[0].message
    assert submissions(metrics)["late"] == 1
    assert counts(metrics, "corolla_feedback_delay_seconds_bucket", "le", route=ROUTE)["1.0"] == 1
    assert len(rows(path)) == 2


def test_what_is_too_much_is_forgotten_from_the_oldest_on_and_never_counted_twice(
    world: World, path: Path
) -> None:
    made = predictions(world, 100)
    labels = label_store(path, most_rows=50)
    with closing(open_over(world, path, most_rows=50)) as feedback:
        feedback.take([sent(each, "star") for each in made])
    labels.open()
    while labels.prune(now=made[-1].created_at):
        pass
    labels.close()

    left = {row["nonce"] for row in rows(path)}
    assert left == {each.nonce for each in made[-len(left) :]}
    assert 40 <= len(left) <= 50
    with closing(open_over(world, path, replica="other")) as feedback:
        again = feedback.take([sent(made[0], "star"), sent(made[-1], "star")])
    assert statuses(again) == ["late", "duplicate"]
    assert "--label-rows" in again[0].message


def test_what_is_too_old_is_forgotten_with_the_counts_of_replicas_that_are_gone(
    world: World, path: Path
) -> None:
    made = predictions(world, 10)
    metrics = metrics_of_route()
    with closing(open_over(world, path, metrics)) as feedback:
        feedback.take([sent(each, "star") for each in made])
        labels = label_store(path, replica="other", keep_days=10)
        labels.open()
        assert labels.prune(now=made[0].created_at + 9 * DAY_S) == 0
        assert len(rows(path)) == 10
        assert labels.prune(now=made[-1].created_at + 11 * DAY_S) == 10
        labels.close()

    assert rows(path) == []
    again = metrics_of_route()
    with closing(open_over(world, path, again)):
        assert submissions(again)["matched"] == 0


def test_labels_are_hidden_until_what_was_counted_before_is_known(world: World, path: Path) -> None:
    (prediction,) = predictions(world, 1)
    with closing(open_over(world, path)) as feedback:
        feedback.take([sent(prediction, "star")])
    metrics = Metrics(CollectorRegistry(), kept=None)
    metrics.add_route(ROUTE, ("lora",))
    labels = label_store(path)
    feedback = Feedback(
        store=world.store, prediction_ids=PREDICTION_IDS, labels=labels, metrics=metrics, window_days=1
    )
    with closing(feedback):
        feedback.not_open(Unreachable("the database of labels cannot be used"))
        assert submissions(metrics) == {}
        assert counts(metrics, "corolla_label_requests_total", "reason", route=ROUTE, domain="unset")
        feedback.tend()
        assert submissions(metrics)["matched"] == 1
