"""True labels as programs write them, and the messages that they are sent in."""

import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from petl_vit.errors import InvalidInput, near
from protos.corolla.v1 import classifier_pb2 as pb

MAX_LABELS = 1000
"""Labels of one call."""

Source = Literal["gold", "user", "downstream", "implicit"]
SOURCES: dict[str, "pb.LabelSource.ValueType"] = {
    "gold": pb.LABEL_SOURCE_GOLD,
    "user": pb.LABEL_SOURCE_USER,
    "downstream": pb.LABEL_SOURCE_DOWNSTREAM,
    "implicit": pb.LABEL_SOURCE_IMPLICIT,
}
"""From the best to the worst."""

Truth = str | int | Collection[str | int] | None
"""The true class by its name or its index; several where it is one of them; None where nobody can tell."""

TAKEN = frozenset({"matched", "duplicate", "corrected"})
"""The statuses of labels that the server has now."""

_LARGEST = 2**32


@dataclass(frozen=True, kw_only=True)
class Label:
    """A true label for one prediction.

    Attributes:
        prediction_id: As a result has it.
        truth: The class by name or index, several where it is one of them, or None where nobody can tell.
        source: Who says so.
        revision: Counts up where the source changes its mind.
        labelled_at: When it was given, for the record; without a time zone it is in UTC.
    """

    prediction_id: str
    truth: Truth
    source: Source = "user"
    revision: int = 0
    labelled_at: datetime | None = None


Labels = Iterable[tuple[str, Truth] | Label]


def requests_of(labels: Labels, *, source: Source = "user", revision: int = 0) -> list[pb.FeedbackRequest]:
    """The requests that labels are sent in, at least one; pairs have this source and revision.

    Raises:
        InvalidInput: A label that is not what it should be; names it by its place.
    """
    messages = []
    for number, label in enumerate(labels):
        if not isinstance(label, Label):
            prediction_id, truth = label
            label = Label(prediction_id=prediction_id, truth=truth, source=source, revision=revision)
        messages.append(_message(label, f"labels[{number}]"))
    starts = range(0, max(len(messages), 1), MAX_LABELS)
    return [pb.FeedbackRequest(labels=messages[start : start + MAX_LABELS]) for start in starts]


def status_name(result: pb.LabelResult) -> str:
    """What became of a label, in lower case: `matched`, `duplicate`, `corrected`, `conflict`, and so on."""
    return pb.FeedbackStatus.Name(result.status).removeprefix("FEEDBACK_STATUS_").lower()


def _message(label: Label, field: str) -> pb.Label:
    if not isinstance(label.prediction_id, str):
        raise InvalidInput(f"{label.prediction_id!r:.80} is not a prediction id", field=field)
    if label.source not in SOURCES:
        remedy = near(str(label.source), SOURCES) or f"use one of {', '.join(SOURCES)}"
        raise InvalidInput(f"{label.source!r:.80} is not a source", field=field, remedy=remedy)
    message = pb.Label(
        prediction_id=label.prediction_id,
        source=SOURCES[label.source],
        revision=_index(label.revision, field, "a revision"),
    )
    _set_truth(message, label.truth, field)
    if label.labelled_at is not None:
        at = label.labelled_at
        message.labelled_at.FromDatetime(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    return message


def _set_truth(message: pb.Label, truth: Truth, field: str) -> None:
    if truth is None:
        message.unknown = True
    elif isinstance(truth, str):
        message.class_name = truth
    elif isinstance(truth, Collection):
        message.any_of.SetInParent()
        for each in truth:
            if isinstance(each, str):
                message.any_of.class_names.append(each)
            else:
                message.any_of.class_indices.append(_index(each, field, "a class"))
    else:
        message.class_index = _index(truth, field, "a class")


def _index(value: Any, field: str, what: str) -> int:
    """A whole number, of NumPy too; not True, which says that an answer was right, and not which class."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not 0 <= number < _LARGEST:
        raise InvalidInput(
            f"{value!r:.80} is not {what}",
            field=field,
            remedy="send a whole number from 0, or a class's name",
        )
    return number
