"""Scores of an answer that tell without a label whether it is right, and their thresholds.

Average thresholded confidence (ATC, arXiv 2201.04234): on labelled images a threshold is chosen so that the
share of answers that reach it is the accuracy; on others the same share estimates theirs. Pure functions on
float64 arrays, so that a server and a reference compute the same.

Shapes: n images, C classes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from petl_vit.combine import entropy

Array = NDArray[np.float64]


def log_confidence(probabilities: Array) -> Array:
    """[n, C] -> [n]: the logarithm of the greatest probability, from what it leaves to the others.

    Near 1 the probability itself saturates: 1 - 1e-17 is 1. The logarithm of it does not.
    """
    rest = np.partition(probabilities, -1, axis=-1)[..., :-1]
    remainder = np.minimum(rest.sum(axis=-1), 1.0)
    with np.errstate(divide="ignore"):
        score: Array = np.log1p(-remainder)
    return score


def negative_entropy(probabilities: Array) -> Array:
    """[n, C] -> [n], nats."""
    return -entropy(probabilities)


SCORES = {"atc_mc": log_confidence, "atc_ne": negative_entropy}
"""The scores with thresholds, by the names of their estimates."""

LOW_SCORE = "atc_mc"
"""The one whose threshold says that an answer has a low score."""


def threshold(scores: Array, correct: NDArray[np.bool_]) -> float:
    """The least score that counts as right, so that as many of these reach it as are right, but for ties.

    -inf where all are right, which then says nothing of other images; inf where none is.
    """
    wrong = int((~correct).sum())
    if wrong == 0:
        return -math.inf
    if wrong == len(scores):
        return math.inf
    return float(np.sort(scores)[wrong])


def estimate(scores: Array, least: float) -> float:
    """The share of answers that count as right."""
    return float((scores >= least).mean())
