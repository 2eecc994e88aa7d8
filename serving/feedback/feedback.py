"""Feedback: true labels of earlier predictions become kept labels, and these become metrics.

    open the ids -> names to indices -> [ lock -> decide -> keep labels and counts ] -> show the counts

What is in brackets is one durable transaction for all labels of a call: whatever ends the process, a label
that was counted is kept, and one that is kept is counted once. Knows no transport.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, Forbidden, InvalidInput, Overloaded
from serving.feedback.counting import count_label, count_status
from serving.feedback.database import is_retried
from serving.feedback.decision import Decision, decide
from serving.feedback.label import KeptLabel, Label, LabelResult, Outcome, Status
from serving.feedback.label_store import LabelStore, LabelTransaction
from serving.feedback.truths import Truths
from serving.metrics.additions import Additions
from serving.metrics.events import Metrics
from serving.metrics.label_values import UNKNOWN
from serving.metrics.prediction_ids import Prediction, PredictionIds

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_WAITING = 64
"""Calls that wait for their turn; more are refused."""
_DAY_S = 86_400.0
_TRIES = 3
_PRUNE_LABELS = 1000  # labels after which is looked for what is to be forgotten
_PRUNE_S = 3600.0  # or after this time
_PRUNINGS = 10  # transactions at once
_REOPEN_S = 10.0
_SAY_S = 60.0  # between two lines of the log about one trouble


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A label whose prediction id was opened and whose classes are known."""

    prediction_id: str
    prediction: Prediction
    label: KeptLabel


class Feedback:
    """Takes labels, one call after the other in a thread of its own: a slow database holds up nothing else.

    Args:
        store: Where the classes of a task are found by its digest.
        window_days: Labels of predictions that are older are late.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        store: Store,
        prediction_ids: PredictionIds,
        labels: LabelStore,
        metrics: Metrics,
        window_days: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._truths, self._prediction_ids, self._labels = Truths(store), prediction_ids, labels
        self._metrics, self._window_s, self._clock = metrics, window_days * _DAY_S, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="labels")
        self._waiting = 0
        self._open = False  # whether this server has taken the name of its replica
        self._exact = False  # whether the metrics show what the store has
        self._unpruned, self._pruned_at = 0, time.monotonic()
        self._began, self._began_at = clock(), self._pruned_at
        self._tried_at = self._said_at = -_SAY_S

    async def in_turn(self, function: Callable[[], T]) -> T:
        """Runs what takes labels in their thread.

        Raises:
            Overloaded: Too many calls wait there.
        """
        if self._waiting >= MAX_WAITING:
            raise Overloaded(
                f"{MAX_WAITING} calls with labels are waiting",
                field="labels",
                remedy="send them again a little later, more of them in one call",
                retry_after_s=1.0,
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self._waiting -= 1

    def take(
        self, labels: Sequence[Label], may: Callable[[Prediction], bool] = lambda prediction: True
    ) -> list[LabelResult]:
        """Decides on labels, keeps and counts them; all of them or none. Blocking.

        Args:
            may: Whether labels of a prediction are taken from whoever sends these.

        Raises:
            Forbidden: One of them is not.
            Overloaded: There is no room to keep them.
            Unreachable, Corrupt: They cannot be kept now.
            Conflict: Another server counts under this replica's name.
        """
        try:
            return self._retried(lambda: self._take(labels, may))
        except CorollaError as error:
            self._say(f"labels were refused: {error}", error)
            raise

    def tend(self) -> None:
        """What is to be done now and then: reach a store that was not there, forget what is old. Blocking."""
        now = time.monotonic()
        try:
            if not self._open or not self._exact:
                if now - self._tried_at >= _REOPEN_S:
                    self._tried_at = now
                    self._reopen()
            elif self._unpruned >= _PRUNE_LABELS or now - self._pruned_at >= _PRUNE_S:
                self._unpruned, self._pruned_at = 0, now
                if all(self._labels.prune(self._lived()) for _ in range(_PRUNINGS)):
                    self._unpruned = _PRUNE_LABELS  # there is more, after the labels that wait meanwhile
        except CorollaError as error:
            self._say(f"labels cannot be kept: {error}", error)
        except Exception:  # a fault of ours, which must not end what is done now and then
            _log.exception("labels were not looked after")

    def not_open(self, error: CorollaError) -> None:
        """The store could not be reached at the start; `tend` tries it again."""
        self._say(f"labels cannot be kept yet, and are refused until they can: {error}", error)

    def close(self) -> None:
        """Finishes what has begun, and ends the thread and the connections."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._labels.close()

    def _lived(self) -> float:
        """The time by which labels are old: a clock that has jumped ahead since the start makes none old."""
        return min(self._clock(), self._began + time.monotonic() - self._began_at)

    def _retried(self, act: Callable[[], T]) -> T:
        for _ in range(_TRIES - 1):
            try:
                return act()
            except CorollaError as error:
                if not is_retried(error):
                    raise
        return act()

    def _reopen(self) -> None:
        """Shows what is kept, after a start or a commit of which it is not known whether it succeeded."""
        kept = self._labels.counts() if self._open else self._labels.open()
        self._metrics.restore(kept)
        self._open = self._exact = True

    def _take(self, labels: Sequence[Label], may: Callable[[Prediction], bool]) -> list[LabelResult]:
        if not self._open or not self._exact:
            self._reopen()
        read = [self._read(label, may) for label in labels]
        additions = Additions()
        self._exact = False
        with self._labels.transaction() as transaction:
            results = _Call(transaction, self._metrics, additions, self._clock(), self._window_s).decide(read)
        self._metrics.add(additions)
        self._exact = True
        self._unpruned += len(labels)
        return results

    def _read(self, label: Label, may: Callable[[Prediction], bool]) -> _Read | tuple[str, LabelResult]:
        """What a label is about; or the route that it counts for and why it cannot be taken."""
        try:
            prediction = self._prediction_ids.open(label.prediction_id)
        except InvalidInput as error:
            return UNKNOWN, LabelResult(status=Status.INVALID_TOKEN, message=str(error))
        if not may(prediction):
            raise Forbidden("a label is of a prediction that its sender may not use", field="prediction_id")
        try:
            truth = self._truths.of(prediction, label.said)
        except (InvalidInput, Corrupt) as error:
            route = self._metrics.place(prediction.route, prediction.domain).base[0]
            return route, LabelResult(status=Status.INVALID_CLASS, message=str(error))
        kept = KeptLabel(
            truth=truth, source=label.source, revision=label.revision, labelled_at=label.labelled_at
        )
        return _Read(prediction_id=label.prediction_id, prediction=prediction, label=kept)

    def _say(self, line: str, error: CorollaError) -> None:
        """Once in a while, as clients send again and again."""
        if time.monotonic() - self._said_at >= _SAY_S:
            self._said_at = time.monotonic()
            cause = getattr(error.__cause__, "orig", error.__cause__) or "no more is known"
            _log.warning("%s (%s: %s)", line, self._labels, " ".join(str(cause).split()))


class _Call:
    """The labels of one call, inside their transaction."""

    def __init__(
        self,
        transaction: LabelTransaction,
        metrics: Metrics,
        additions: Additions,
        now: float,
        window_s: float,
    ) -> None:
        self._transaction, self._metrics, self._additions = transaction, metrics, additions
        self._now, self._window_s = now, window_s

    def decide(self, read: Sequence[_Read | tuple[str, LabelResult]]) -> list[LabelResult]:
        """What becomes of each, in order; a later one of the same prediction sees the earlier."""
        timely = [each.prediction for each in read if isinstance(each, _Read) and not self._is_old(each)]
        history = self._transaction.lock(timely)
        horizon = self._transaction.horizon()
        kept: list[tuple[Prediction, KeptLabel, Decision]] = []
        results = []
        for each in read:
            if isinstance(each, tuple):
                route, result = each
                count_status(self._additions, route, result.status)
                results.append(result)
            elif self._is_old(each) or _is_forgotten(each, history, horizon):
                results.append(self._late(each))
            else:
                results.append(self._decide(each, history[each.prediction.nonce], kept))
        self._transaction.keep(kept, self._now)
        self._transaction.release([nonce for nonce, labels in history.items() if not labels])
        self._transaction.count(self._additions)
        return results

    def _is_old(self, read: _Read) -> bool:
        return self._now - read.prediction.created_at > self._window_s

    def _decide(
        self,
        read: _Read,
        history: list[KeptLabel],
        kept: list[tuple[Prediction, KeptLabel, Decision]],
    ) -> LabelResult:
        prediction, label = read.prediction, read.label
        decision = decide(history, label)
        place = self._metrics.place(prediction.route, prediction.domain)
        delay_s = self._now - prediction.created_at
        count_label(self._additions, place, prediction, label, decision, delay_s=delay_s)
        if decision.keep:
            history.append(label)
            kept.append((prediction, label, decision))
        taken = decision.status is not Status.CONFLICT
        correct = taken and label.outcome(prediction.predicted) is Outcome.CORRECT
        if decision.first_class and not correct:
            wrong = (*place.base, "incorrect")
            self._additions.examples["corolla_feedback_total", wrong] = read.prediction_id
        return LabelResult(status=decision.status, correct=correct, message=decision.message)

    def _late(self, read: _Read) -> LabelResult:
        prediction = read.prediction
        route = self._metrics.place(prediction.route, prediction.domain).base[0]
        count_status(self._additions, route, Status.LATE)
        days = (self._now - prediction.created_at) / _DAY_S
        return LabelResult(
            status=Status.LATE,
            message=f"the prediction is {days:.1f} days old; labels are taken for "
            f"{self._window_s / _DAY_S:g} days, and while the server remembers which were counted "
            "(--label-window-days, --label-rows)",
        )


def _is_forgotten(read: _Read, history: Mapping[str, Sequence[KeptLabel]], horizon: float | None) -> bool:
    """Whether it cannot be told whether a label of this prediction was counted before."""
    prediction = read.prediction
    return horizon is not None and prediction.created_at <= horizon and not history[prediction.nonce]
