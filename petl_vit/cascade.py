"""Cascades: members are asked in order, and the answer stands as soon as it is settled.

The answer of a cascade that has asked k members is the mean of their logits, so that one which has asked all
is the mean ensemble. Serving, evaluation and calibration share these pure functions on float64 arrays.

Shapes: n images, k members asked so far of K, C classes; members are in the order in which they are asked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from petl_vit.combine import Answer, Array, combine, softmax
from petl_vit.errors import InvalidInput

NOT_ASKED = -1
"""In the place of a member's vote."""


class Score(StrEnum):
    """What says how settled an answer is; the higher, the more.

    Attributes:
        MARGIN: The highest combined logit minus the second highest, divided by the temperature.
        CONFIDENCE: The probability of the answer.
        AGREEMENT: 1 where all members asked so far name the answer, else 0, plus the confidence.
    """

    MARGIN = "margin"
    CONFIDENCE = "confidence"
    AGREEMENT = "agreement"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What holds once so many members have been asked.

    Attributes:
        threshold: The score from which on the answer stands; None at the last stage, where it always does.
        temperature: Divides the combined logits at this stage.

    Raises:
        InvalidInput: A threshold that is not a finite number, or a temperature that is not above 0.
    """

    threshold: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise InvalidInput(f"threshold {self.threshold} is not a finite number", field="threshold")
        if not 0 < self.temperature < math.inf:
            raise InvalidInput(
                f"temperature {self.temperature} is not a finite number above 0", field="temperature"
            )


@dataclass(frozen=True, kw_only=True)
class CascadeAnswer:
    """What a cascade says about n images.

    Attributes:
        answer: Its votes and confidences are [n, K]: `NOT_ASKED` and NaN where a member was not asked.
        asked: [n], how many members each answer is of, at least 1.
    """

    answer: Answer
    asked: NDArray[np.int64]


def scores(logits: Array, score: Score, temperature: float) -> Array:
    """How settled the mean of the members' logits is, [n].

    Args:
        logits: [n, k, C], finite; of the members asked so far.
    """
    mean: Array = logits.mean(axis=1) / temperature
    if score is Score.MARGIN:
        best = np.partition(mean, -2, axis=-1)
        margin: Array = best[:, -1] - best[:, -2]
        return margin
    confidence: Array = softmax(mean).max(axis=-1)
    if score is Score.CONFIDENCE:
        return confidence
    alike = (logits.argmax(axis=-1) == mean.argmax(axis=-1)[:, None]).all(axis=-1)
    agreed: Array = alike + confidence
    return agreed


def settled(logits: Array, score: Score, stage: Stage) -> NDArray[np.bool_]:
    """Whether the answer of the members asked so far stands, [n].

    Args:
        logits: [n, k, C], finite.
        stage: That of k members.
    """
    if stage.threshold is None:
        return np.ones(len(logits), dtype=np.bool_)
    stands: NDArray[np.bool_] = scores(logits, score, stage.temperature) >= stage.threshold
    return stands


def members_asked(logits: Array, score: Score, stages: Sequence[Stage]) -> NDArray[np.int64]:
    """How many members a cascade asks for each image, [n].

    Args:
        logits: [n, K, C], finite; of all members, in the order in which they are asked.
        stages: K of them.
    """
    asked = np.full(len(logits), len(stages), dtype=np.int64)
    for k in range(len(stages) - 1, 0, -1):
        asked[settled(logits[:, :k], score, stages[k - 1])] = k
    return asked


def answer(logits: Array, stage: Stage) -> Answer:
    """The answer of the k members asked so far.

    Args:
        logits: [n, k, C], finite.
        stage: That of k members.
    """
    return combine(logits, np.ones(logits.shape[1]), temperature=stage.temperature)


def answers(
    logits: Array, score: Score, stages: Sequence[Stage], *, order: Sequence[int] | None = None
) -> CascadeAnswer:
    """What a cascade says about images of which the logits of all its members are known.

    Args:
        logits: [n, K, C], finite; of the members as the route lists them.
        order: Their indices in the order in which they are asked; None is as the route lists them.

    Returns:
        The answers, whose votes and confidences are in the route's order.
    """
    order = list(range(len(stages)) if order is None else order)
    in_order = logits[:, order]
    asked = members_asked(in_order, score, stages)
    parts = {int(k): asked == k for k in np.unique(asked)}
    by_stage = {k: answer(in_order[where, :k], stages[k - 1]) for k, where in parts.items()}
    votes = np.full(logits.shape[:2], NOT_ASKED, dtype=np.int64)
    confidences = np.full(logits.shape[:2], np.nan)
    for k, where in parts.items():
        votes[np.ix_(where, order[:k])] = by_stage[k].votes
        confidences[np.ix_(where, order[:k])] = by_stage[k].confidences

    n, classes = len(logits), logits.shape[2]
    whole = Answer(
        probabilities=np.empty((n, classes)),
        predicted=np.empty(n, dtype=np.int64),
        votes=votes,
        confidences=confidences,
        agreement=np.empty(n),
        entropy=np.empty(n),
        mutual_information=np.empty(n),
    )
    for k, where in parts.items():
        for name in ("probabilities", "predicted", "agreement", "entropy", "mutual_information"):
            getattr(whole, name)[where] = getattr(by_stage[k], name)
    return CascadeAnswer(answer=whole, asked=asked)
