"""What a label means beside those that its prediction has: a pure function of their history.

Of the labels of one prediction the one of the best source stands, of one source that with the highest
revision, and of one revision that which names a class. A label that says what the standing one says is a
duplicate, whoever sends it; one that contradicts it and does not outweigh it is a conflict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.feedback.label import KeptLabel, Status

MAX_KEPT = 100
"""Labels of one prediction: whoever changes their mind more often is not listened to."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a label.

    Attributes:
        keep: Whether it is kept: it says what its source did not say before.
        before: The label that stood when it came; None where it is the first.
        stands: Whether it stands now, in the place of `before`.
        first_class: Whether it is the first standing label of its prediction that names a class.
        new_source: Whether its source said nothing of this prediction before.
        message: What the sender should know.
    """

    status: Status
    keep: bool
    before: KeptLabel | None
    stands: bool
    first_class: bool
    new_source: bool
    message: str = ""


def decide(history: Sequence[KeptLabel], label: KeptLabel) -> Decision:
    """What becomes of a label of a prediction.

    Args:
        history: The labels of the prediction that were kept, in the order in which they came.
    """
    before, named = _standing(history)
    own = max((kept for kept in history if kept.source == label.source), key=_weight, default=None)
    stands = before is None or label.weight > before.weight
    status, message = _status(before, named, own, label, stands)
    # Keeping a duplicate of a higher revision lets that revision count when the next one is compared.
    keep = own is None or label.weight > own.weight
    if keep and len(history) >= MAX_KEPT:
        status, keep = Status.CONFLICT, False
        message = f"{MAX_KEPT} labels of this prediction are kept, and no more are taken"
    return Decision(
        status=status,
        keep=keep,
        before=before,
        stands=keep and stands,
        first_class=keep and stands and not named and bool(label.truth),
        new_source=keep and own is None,
        message=message,
    )


def _standing(history: Sequence[KeptLabel]) -> tuple[KeptLabel | None, bool]:
    """The label that stands, and whether one that named a class ever did."""
    standing, named = None, False
    for label in history:
        if standing is None or label.weight > standing.weight:
            standing, named = label, named or bool(label.truth)
    return standing, named


def _status(
    before: KeptLabel | None, named: bool, own: KeptLabel | None, label: KeptLabel, stands: bool
) -> tuple[Status, str]:
    if before is None:
        return Status.MATCHED, ""
    if own is not None and own.truth != label.truth and label.weight <= own.weight:
        return (
            Status.CONFLICT,
            f"{label.source} said something else of this prediction at revision {own.revision}; to change "
            "it, send a higher revision",
        )
    if label.truth == before.truth:
        return Status.DUPLICATE, "a label for this prediction that says the same was counted before"
    if not stands and own is not None and own.truth == label.truth:
        return Status.DUPLICATE, f"kept before; the label of a better source stands, {before.source}"
    if not stands:
        return Status.CONFLICT, f"the label of a better source stands, {before.source}"
    return Status.CORRECTED if named else Status.MATCHED, ""


def _weight(label: KeptLabel) -> tuple[int, int, bool]:
    return label.weight
