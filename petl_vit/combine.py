"""From the logits of a route's members to one answer and its evidence.

Pure functions on float64 arrays; does not know where logits come from. Members of one answer share
their class order (the caller aligns it by name). Source of the statistics: docs/metrics.md.

Shapes: n images, K members, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


_LEAST_TEMPERATURE = 1e-200
"""Logits divided by less would overflow; the answer is that of the limit, one class, long before."""


class Combine(StrEnum):
    """How members become one answer; a cascade is the mean of those that were asked (`petl_vit.cascade`)."""

    MEAN = "mean"
    PROB = "prob"
    VOTE = "vote"
    CASCADE = "cascade"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a route says about n images.

    Attributes:
        probabilities: [n, C].
        predicted: [n], the class of the answer.
        votes: [n, K], the class of each member.
        confidences: [n, K], the probability of each member's vote.
        agreement: [n], share of the members whose vote is the answer.
        entropy: [n], of the probabilities, nats.
        mutual_information: [n], H(mean of the members' probabilities) - mean of their H, nats.
    """

    probabilities: Array
    predicted: NDArray[np.int64]
    votes: NDArray[np.int64]
    confidences: Array
    agreement: Array
    entropy: Array
    mutual_information: Array

    def of(self, image: int) -> "Answer":
        """That for one image alone."""
        return Answer(**{field.name: getattr(self, field.name)[[image]] for field in fields(Answer)})


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    z = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: Array = z / z.sum(axis=-1, keepdims=True)
    return normalised


def entropy(p: Array) -> Array:
    """Over the last axis, nats; 0 log 0 = 0."""
    nats: Array = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)
    return nats


def _weighted(values: Array, weights: Array) -> Array:
    """[n, K, C] and [K] -> [n, C]."""
    total: Array = np.einsum("nkc,k->nc", values, weights)
    return total


def _mean(logits: Array, weights: Array, temperature: float) -> Array:
    return softmax(_weighted(logits, weights) / temperature)


def _prob(logits: Array, weights: Array, temperature: float) -> Array:
    return _weighted(softmax(logits / temperature), weights)


def _vote(logits: Array, weights: Array, temperature: float) -> Array:
    """Shares of the weighted votes."""
    votes = np.eye(logits.shape[-1])[logits.argmax(axis=-1)]
    return _weighted(votes, weights)


_RULES: dict[Combine, Callable[[Array, Array, float], Array]] = {
    Combine.MEAN: _mean,
    Combine.PROB: _prob,
    Combine.VOTE: _vote,
    Combine.CASCADE: _mean,  # of the members that were asked
}


def combine(
    logits: Array, weights: Array, *, rule: Combine = Combine.MEAN, temperature: float = 1.0
) -> Answer:
    """One answer from the members' raw logits.

    Args:
        logits: [n, K, C], finite.
        weights: [K], positive; only their ratios matter.
        temperature: Divides the combined logits (mean, cascade) or each member's logits (prob); a vote's
            shares do not depend on it.
    """
    temperature = max(temperature, _LEAST_TEMPERATURE)
    weights = weights / weights.max()  # before the sum, which huge weights would overflow
    weights = weights / weights.sum()
    p = _RULES[rule](logits, weights, temperature)
    members = softmax(logits / temperature)
    mean = _weighted(members, weights)
    likeliest = p
    if rule is Combine.VOTE:
        ties = np.isclose(p, p.max(axis=-1, keepdims=True), rtol=0, atol=1e-12)
        likeliest = np.where(ties, mean, -1.0)
    predicted = likeliest.argmax(axis=-1)
    votes = logits.argmax(axis=-1)
    information = entropy(mean) - np.einsum("nk,k->n", entropy(members), weights)
    return Answer(
        probabilities=p,
        predicted=predicted,
        votes=votes,
        confidences=np.take_along_axis(members, votes[..., None], axis=-1)[..., 0],
        agreement=(votes == predicted[:, None]).mean(axis=-1),
        entropy=entropy(p),
        mutual_information=np.maximum(information, 0.0),
    )
