"""Feedback: true labels for earlier predictions become accuracy counters.

The prediction id carries what is needed, so nothing is stored but the nonces of the labels counted last,
which tell a repeated label from a new one. Knows no transport.
"""

import time
from dataclasses import dataclass
from typing import Literal

from model_store.names import class_name
from model_store.store import Store
from petl_vit.errors import Corrupt, InvalidInput
from serving.metrics.events import Metrics
from serving.metrics.prediction_ids import Prediction, PredictionIds, RecentNonces

Status = Literal["counted", "duplicate", "invalid_token", "invalid_class"]


@dataclass(frozen=True, kw_only=True)
class LabelOutcome:
    """Whether one label was counted, and why not."""

    status: Status
    correct: bool = False
    message: str = ""


class Feedback:
    """Counts labels.

    Args:
        store: Where the classes of a task are found by its digest.
        nonces: Those of predictions whose label was counted.
    """

    def __init__(
        self, *, store: Store, prediction_ids: PredictionIds, nonces: RecentNonces, metrics: Metrics
    ) -> None:
        self._store, self._prediction_ids, self._nonces, self._metrics = (
            store,
            prediction_ids,
            nonces,
            metrics,
        )
        self._classes: dict[str, tuple[str, ...]] = {}

    def label(self, prediction_id: str, truth: str | int | None) -> LabelOutcome:
        """Counts the true class, by name or index, of one prediction. Blocking."""
        try:
            prediction = self._prediction_ids.open(prediction_id)
        except InvalidInput as error:
            self._metrics.feedback_refused("invalid_token")
            return LabelOutcome(status="invalid_token", message=str(error))
        try:
            truth_index = self._class_index(prediction, truth)
        except (InvalidInput, Corrupt) as error:
            self._metrics.feedback_refused("invalid_class", prediction.route)
            return LabelOutcome(status="invalid_class", message=str(error))
        if not self._nonces.add(prediction.nonce):
            self._metrics.feedback_refused("duplicate", prediction.route)
            return LabelOutcome(status="duplicate", message="a label for this prediction was counted before")
        return self._count(prediction, truth_index)

    def _count(self, prediction: Prediction, truth: int) -> LabelOutcome:
        correct = prediction.predicted == truth
        votes = zip(prediction.members, prediction.votes, strict=False)
        self._metrics.feedback(
            route=prediction.route,
            domain=prediction.domain,
            correct=correct,
            members={member: vote == truth for member, vote in votes if vote is not None},
            delay_seconds=time.time() - prediction.created_at,
        )
        return LabelOutcome(status="counted", correct=correct)

    def _class_index(self, prediction: Prediction, truth: str | int | None) -> int:
        classes = self._task_classes(prediction)
        if isinstance(truth, str):
            names = [*map(class_name, classes)]
            if class_name(truth) in names:
                return names.index(class_name(truth))
        if isinstance(truth, int) and 0 <= truth < len(classes):
            return truth
        shown = ", ".join(classes[:8]) + (" ..." if len(classes) > 8 else "")
        raise InvalidInput(
            "the label names no class"
            if truth is None
            else f"{truth!r} is not a class of task {prediction.task!r}",
            field="truth",
            remedy=f"send one of {shown}",
        )

    def _task_classes(self, prediction: Prediction) -> tuple[str, ...]:
        if prediction.task_digest not in self._classes:
            record = self._store.tasks.find(prediction.task, prediction.task_digest)
            if record is None:
                raise InvalidInput(
                    f"task {prediction.task!r} of this prediction is no longer in the store", field="truth"
                )
            self._classes[prediction.task_digest] = record.spec.classes
        return self._classes[prediction.task_digest]
