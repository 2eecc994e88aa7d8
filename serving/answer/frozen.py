"""The frozen share: some images of named routes are also put to the frozen backbone and the task's base head.

That is one row more for each of them. Its features tell inputs that are unlike the reference's, and the base
head is a witness that no adapter has changed. No answer waits for it or depends on it.

Shapes: D width of the backbone, C classes of the task.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.format.records import TaskRecord
from petl_vit.adapter import Adapter
from petl_vit.batch import Term, Witness
from petl_vit.errors import CorollaError
from petl_vit.heads import Head
from serving.answer.rounds import Outcome
from serving.engine.batcher import Done
from serving.engine.engine import Job
from serving.registry.catalog import Plan

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What the frozen backbone says of one image.

    Attributes:
        features: [D]
        base: [C], the logits of the base head, in the order of the task's classes.
    """

    features: NDArray[np.float64]
    base: NDArray[np.float64]


class FrozenShare:
    """Chooses images, and has the model that they are put to.

    Args:
        share: Of the images of named routes.
        base_head: Reads the base head of a task; it is asked once for each.
    """

    def __init__(self, share: float, base_head: Callable[[TaskRecord], Head]) -> None:
        self._share, self._base_head = share, base_head
        self._models: dict[str, Witness] = {}
        self._unread: set[str] = set()
        self._lock = threading.Lock()

    def applies(self, plan: Plan) -> bool:
        """Whether any image under a plan may be in the share."""
        return self._share > 0 and plan.named is not None

    def witness(self, plan: Plan, place: float) -> Witness | None:
        """What an image under a plan is put to besides; None where it is not in the share. Blocking.

        Args:
            place: Of the image, as `serving.answer.shares` has it.
        """
        if place >= self._share or plan.named is None:
            return None
        task = plan.resolved.task
        with self._lock:
            if task.digest not in self._models:
                self._read(task)
            return self._models.get(task.digest)

    def _read(self, task: TaskRecord) -> None:
        try:
            base = Adapter.base(base_head=self._base_head(task), task_digest=task.digest)
        except CorollaError as error:
            if task.digest not in self._unread:  # said once, tried again
                _log.warning("no image of task %s is put to the frozen backbone: %s", task.spec.name, error)
            self._unread.add(task.digest)
        else:
            self._models[task.digest] = Witness([Term(adapter=base)])


def _no_head(task: TaskRecord) -> Head:
    raise AssertionError(f"no share of task {task.spec.name} needs a head")


NO_SHARE = FrozenShare(0.0, _no_head)
"""Of no image."""


def parted(job: Job, outcome: Outcome) -> tuple[Outcome, Frozen | None]:
    """What a job's models say, and what its witness does, where it has one that did not fail."""
    if not isinstance(outcome, Done) or job.witness is None or len(outcome.result) <= job.rows:
        return outcome, None
    *logits, said = outcome.result
    classes = job.witness.head.classes
    frozen = Frozen(features=said[:-classes], base=said[-classes:])
    return Done(result=logits, queue_s=outcome.queue_s, run_s=outcome.run_s), frozen
