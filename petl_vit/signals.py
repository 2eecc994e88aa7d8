"""What answers say about themselves without a label, image by image: numbers whose sums tell of any window.

Every signal is a number of one image, so that counters of sums and of images are enough for its mean over any
time, place or replica. Pure functions on float64 arrays; nothing here knows where answers come from.

Shapes: n images, K members, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petl_vit.combine import Answer
from petl_vit.estimators import SCORES

Array = NDArray[np.float64]

MARGIN_EDGES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Upper edges of the histogram of margins."""

DISTANCE_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Upper edges of the histogram of distances, in units of what 95 % of the reference images do not exceed."""

CONFIDENCE, VOTE = "confidence", "vote"

METHODS = (CONFIDENCE, VOTE, *SCORES)
"""Ways to expect, image by image, whether the answer is right."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Of n answered images; NaN where an image's probabilities are not finite.

    Attributes:
        confidence: [n], probability of the answer: how often it is right, where that is calibrated.
        margin: [n], what the answer has more than the runner-up; 0 where the answer is not the most probable.
        entropy, mutual_information: [n], nats, at least 0.
        agreement: [n], share of the members whose class is the answer.
        scores: By the names of `petl_vit.estimators.SCORES`, [n] each.
    """

    confidence: Array
    margin: Array
    entropy: Array
    mutual_information: Array
    agreement: Array
    scores: Mapping[str, Array]

    def expected(self, thresholds: Mapping[str, float]) -> dict[str, Array]:
        """How often each answer is right, [n] in [0, 1], by each method that can tell.

        Args:
            thresholds: Of the scores of `petl_vit.estimators`, by their names.

        Returns:
            NaN for an image whose numbers are not finite.
        """
        methods = {CONFIDENCE: self.confidence, VOTE: self.agreement}
        for name, threshold in thresholds.items():
            score = self.scores[name]
            methods[name] = np.where(np.isnan(score), np.nan, score >= threshold)
        return methods


def signals(answer: Answer) -> Signals:
    """The signals of answers, whose probabilities are at the route's temperature."""
    p, rows = answer.probabilities, np.arange(len(answer.predicted))
    confidence = np.minimum(p[rows, answer.predicted], 1.0)  # a sum of shares may exceed 1 by rounding
    others = p.copy()
    others[rows, answer.predicted] = -np.inf
    margin = np.clip(confidence - others.max(axis=-1), 0.0, 1.0)
    scores = {name: score(p) for name, score in SCORES.items()}
    return Signals(
        confidence=confidence,
        margin=margin,
        entropy=np.maximum(answer.entropy, 0.0),
        mutual_information=np.maximum(answer.mutual_information, 0.0),
        agreement=answer.agreement,
        scores=scores,
    )
