"""Feedback over a world's store, with labels in a file of its own."""

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

from serving.feedback.database import Database
from serving.feedback.feedback import Feedback
from serving.feedback.label_store import LabelStore
from serving.metrics.events import Metrics
from serving.metrics.prediction_ids import PredictionIds
from tests.serving.world import World


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
    metrics.restore(labels.open())
    return Feedback(
        store=world.store,
        prediction_ids=prediction_ids,
        labels=labels,
        metrics=metrics,
        window_days=window_days,
        clock=clock,
    )
