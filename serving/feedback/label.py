"""True labels, as they are said and as they are kept; no transport, no database."""

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Who says what an image shows, from the worst to the best."""

    IMPLICIT = "implicit"
    DOWNSTREAM = "downstream"
    USER = "user"
    GOLD = "gold"

    @property
    def rank(self) -> int:
        """The better source has the higher rank."""
        return list(Source).index(self)


class Status(StrEnum):
    """What became of a label; docs/protocol.md says what each means."""

    MATCHED = "matched"
    DUPLICATE = "duplicate"
    CORRECTED = "corrected"
    CONFLICT = "conflict"
    LATE = "late"
    INVALID_TOKEN = "invalid_token"
    INVALID_CLASS = "invalid_class"


class Outcome(StrEnum):
    """What a label says of an answer."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNKNOWN = "unknown"


Truth = tuple[int, ...]
"""The classes that an image may show, as ascending indices; none where nobody can tell."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A truth as a client says it.

    Attributes:
        classes: By name or index; several where it is one of them.
        unknown: Whether somebody looked and could not tell; then there are no classes.
    """

    classes: tuple[str | int, ...] = ()
    unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label as a client sends it.

    Attributes:
        revision: Counts up where a source changes its mind.
        labelled_at: When it was given, seconds since the epoch; None where that is not said.
    """

    prediction_id: str
    said: Said
    source: Source = Source.USER
    revision: int = 0
    labelled_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class KeptLabel:
    """A label of a known prediction, as it is kept."""

    truth: Truth
    source: Source
    revision: int
    labelled_at: float | None = None

    def outcome(self, predicted: int) -> Outcome:
        """What it says of an answer."""
        if not self.truth:
            return Outcome.UNKNOWN
        return Outcome.CORRECT if predicted in self.truth else Outcome.INCORRECT

    @property
    def weight(self) -> tuple[int, int, bool]:
        """Of several labels of one prediction, the one with the highest stands."""
        return self.source.rank, self.revision, bool(self.truth)


@dataclass(frozen=True, kw_only=True)
class LabelResult:
    """What became of one label, and why.

    Attributes:
        correct: Whether the prediction was right by this label, where it was taken.
    """

    status: Status
    correct: bool = False
    message: str = ""
