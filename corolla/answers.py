"""What is known of one image after `Store.classify` or `Store.embed`: views of the server's own records.

An image that could not be used has an `error`, and raises it where something else is asked of it, so that
one bad image spoils no other and is not overlooked.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from petl_vit.errors import CorollaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from serving.request import ImageAnswer


@dataclass(frozen=True, kw_only=True)
class Score:
    """A class and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a route says of one image; K members, C classes.

    Attributes:
        outcome: The server's record of it, or why there is none.
        route: What answered, with versions.
        classes: The task's classes, in the order of `probabilities`.
        top_k: How many classes `top` has.
    """

    outcome: "ImageAnswer | CorollaError"
    route: str
    classes: tuple[str, ...]
    top_k: int

    @property
    def error(self) -> CorollaError | None:
        """Why the image could not be answered; None if it was."""
        return self.outcome if isinstance(self.outcome, CorollaError) else None

    @property
    def label(self) -> str:
        """The predicted class."""
        return self.classes[self._answer.predicted]

    @property
    def probability(self) -> float:
        """Of the predicted class."""
        return float(self._answer.probabilities[self._answer.predicted])

    @property
    def top(self) -> tuple[Score, ...]:
        """The predicted class, then the most probable others."""
        probabilities = self._answer.probabilities
        best = self._answer.best(self.top_k)
        return tuple(Score(label=self.classes[i], probability=float(probabilities[i])) for i in best)

    @property
    def probabilities(self) -> "NDArray[np.float64]":
        """[C], in the order of `classes`."""
        return self._answer.probabilities

    @property
    def votes(self) -> tuple[str | None, ...]:
        """[K], the class that each member of the route predicts; None where a cascade did not ask it."""
        return tuple(None if vote is None else self.classes[vote] for vote in self._answer.votes)

    @property
    def members_asked(self) -> int:
        """How many members the answer is of: all of the route's, or as many as a cascade needed."""
        return self._answer.members_asked

    @property
    def agreement(self) -> float:
        """Share of the members asked that predict the class of the answer; 1 for a single member."""
        return self._answer.agreement

    @property
    def entropy(self) -> float:
        """Of the probabilities, nats."""
        return self._answer.entropy

    @property
    def mutual_information(self) -> float:
        """Entropy of the members' mean probabilities less the mean of their entropies, nats: disagreement."""
        return self._answer.mutual_information

    @property
    def _answer(self) -> "ImageAnswer":
        if isinstance(self.outcome, CorollaError):
            raise self.outcome
        return self.outcome


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The features of one image; D width of the backbone.

    Attributes:
        outcome: The features, or why there are none.
        route: Whose features they are, with versions.
    """

    outcome: "NDArray[np.float32] | CorollaError"
    route: str

    @property
    def error(self) -> CorollaError | None:
        """Why the image could not be used; None if it was."""
        return self.outcome if isinstance(self.outcome, CorollaError) else None

    @property
    def vector(self) -> "NDArray[np.float32]":
        """[D]."""
        if isinstance(self.outcome, CorollaError):
            raise self.outcome
        return self.outcome
