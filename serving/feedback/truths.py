"""From classes as clients say them to indices of the task that was answered."""

from collections.abc import Mapping
from dataclasses import dataclass

from model_store.names import class_name
from model_store.store import Store
from petl_vit.errors import InvalidInput, near
from serving.feedback.label import Said, Truth
from serving.metrics.prediction_ids import Prediction

_SHOWN = 8  # classes
_LONGEST = 80  # characters


@dataclass(frozen=True, kw_only=True)
class _Classes:
    names: tuple[str, ...]
    indices: Mapping[str, int]  # of the one spelling of each name

    @property
    def shown(self) -> str:
        return ", ".join(self.names[:_SHOWN]) + (" ..." if len(self.names) > _SHOWN else "")


class Truths:
    """Knows the classes of tasks, in the order in which each task was answered; threads do not share it.

    Args:
        store: Where a task is found by its digest, also when its name has other classes by now.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._classes: dict[str, _Classes] = {}

    def of(self, prediction: Prediction, said: Said) -> Truth:
        """The classes that a label names, as indices.

        Raises:
            InvalidInput: It names none, or one that the task does not have, or all of them.
            Corrupt: The task's record is damaged.
            Unreachable: The store does not answer.
        """
        if said.unknown:
            return ()
        classes = self._of_task(prediction)
        if not said.classes:
            raise _refused("the label names no class", f"send one of {classes.shown}")
        truth = tuple(sorted({self._index(prediction, classes, each) for each in said.classes}))
        if len(truth) == len(classes.names) > 1:
            raise _refused("the label names every class, which says nothing", "send fewer, or unknown")
        return truth

    def _index(self, prediction: Prediction, classes: _Classes, said: str | int) -> int:
        if isinstance(said, str) and (name := class_name(said)) in classes.indices:
            return classes.indices[name]
        if isinstance(said, int) and 0 <= said < len(classes.names):
            return said
        meant = near(said, classes.names, most=1) if isinstance(said, str) and len(said) <= _LONGEST else None
        raise _refused(
            f"{str(said)[:_LONGEST]!r} is not a class of task {prediction.task!r}",
            f"{meant + ' ' if meant else ''}send one of {classes.shown}",
        )

    def _of_task(self, prediction: Prediction) -> _Classes:
        digest = prediction.task_digest
        if digest not in self._classes:
            record = self._store.tasks.find(prediction.task, digest)
            if record is None:
                raise _refused(
                    f"task {prediction.task!r} of this prediction is no longer in the store",
                    "put the task back as it was, or leave the label out",
                )
            names = record.spec.classes
            places = reversed([*enumerate(names)])  # of two alike, the first
            self._classes[digest] = _Classes(names=names, indices={class_name(n): i for i, n in places})
        return self._classes[digest]


def _refused(problem: str, remedy: str) -> InvalidInput:
    return InvalidInput(problem, field="truth", remedy=remedy)
