"""Feedback over a world's store, with labels in a file of its own, and predictions to label."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from sqlalchemy import text

from serving.feedback.database import Database
from serving.feedback.feedback import Feedback
from serving.feedback.label import Label, LabelResult, Said, Source
from serving.feedback.label_store import LabelStore
from serving.metrics.events import Metrics
from serving.metrics.prediction_ids import Prediction, PredictionIds
from tests.serving.feedback.recount import ROWS
from tests.serving.world import World, new_metrics

PREDICTION_IDS = PredictionIds(b"k" * 32)
ROUTE, MEMBERS = "shapes/best", ("lora", "ssf", "bitfit")


def label_store(where: Path | str, **changes: Any) -> LabelStore:
    """A store of labels that is not open yet."""
    chosen = {"replica": "here", "keep_days": 365.0, "most_rows": 1000} | changes
    return LabelStore(Database(str(where)), **chosen)


def feedback_over(
    world: World,
    metrics: Metrics,
    prediction_ids: PredictionIds,
    where: Path | str | None = None,
    *,
    window_days: float = 36_500,
    clock: Callable[[], float] = time,
    **changes: Any,
) -> Feedback:
    """Feedback whose metrics show what was kept before.

    Args:
        where: Of the labels; by default a file beside the world's store.
        changes: Of `label_store`.
    """
    labels = label_store(where or world.folder.parent / "labels.db", **changes)
    metrics.restore(labels.look())
    return Feedback(
        store=world.store,
        prediction_ids=prediction_ids,
        labels=labels,
        metrics=metrics,
        window_days=window_days,
        clock=clock,
    )


def metrics_of_route() -> Metrics:
    """Metrics that know one route of three members."""
    metrics = new_metrics()
    metrics.add_route(ROUTE, MEMBERS)
    return metrics


def predictions(world: World, count: int, *, created_at: float | None = None) -> list[Prediction]:
    """Answers of the route, with votes, confidences and requests by chance; always the same."""
    chance = np.random.default_rng(count)
    digest = world.store.tasks.get("shapes", world.backbone.digest).digest
    return [
        Prediction(
            route=ROUTE,
            domain="unset",
            task="shapes",
            task_digest=digest,
            predicted=int(chance.integers(3)),
            votes=tuple(map(int, chance.integers(0, 3, 3))),
            members=MEMBERS,
            confidence=round(float(chance.uniform(0.3, 1)), 3),
            created_at=time() - 100 + number if created_at is None else created_at + number,
            nonce=f"{number:016x}",
            inclusion=float(chance.choice([0.01, 0.11])) if chance.random() < 0.5 else None,
        )
        for number in range(count)
    ]


def sent(
    prediction: Prediction,
    *truth: str | int,
    unknown: bool = False,
    source: Source = Source.USER,
    revision: int = 0,
) -> Label:
    """A label as a client sends it."""
    said = Said(classes=truth, unknown=unknown)
    prediction_id = PREDICTION_IDS.seal(prediction)
    return Label(prediction_id=prediction_id, said=said, source=source, revision=revision)


def stream_of(made: Sequence[Prediction]) -> Iterator[Label]:
    """Labels of predictions by several sources, with repeats, changes of mind and contradictions."""
    chance = np.random.default_rng(0)
    for prediction in made:
        for _ in range(int(chance.integers(1, 5))):
            unknown = chance.random() < 0.1
            classes = sorted({*map(int, chance.integers(0, 3, int(chance.integers(1, 3))))})
            yield sent(
                prediction,
                *(() if unknown else classes),
                unknown=bool(unknown),
                source=list(Source)[int(chance.integers(4))],
                revision=int(chance.integers(3)),
            )


def statuses(results: Sequence[LabelResult]) -> list[str]:
    return [str(result.status) for result in results]


def rows(where: Path | str) -> list[Mapping[str, Any]]:
    """The labels that a database has, with their predictions, in order."""
    database = Database(str(where))
    with database.transaction() as connection:
        found = [row._asdict() for row in connection.execute(text(ROWS))]
    database.close()
    return found
