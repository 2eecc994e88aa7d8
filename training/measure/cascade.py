"""How a cascade is learnt from its members' logits on labelled images that none of them was trained on.

- Order: greedily, the next member is the one with which the mean of those asked has the lowest negative
  log-likelihood.
- Temperatures: one for each number of members asked, so that the confidence is calibrated at every stage.
- Threshold: one for all stages, whose scores are comparable since they are calibrated; the lowest at which
  the *expected* loss is within what is stated. An answer that stands early is expected to lose the
  probability of the whole ensemble's answer less its own, both by the whole ensemble's calibrated
  probabilities. Images that happened to turn out right or wrong decide less of it than in a count, whose
  thresholds lose twice what is stated on other images (docs/decisions/0026-how-a-cascade-learns.md).

Counting right and wrong answers is for judging (`training.measure.cascade_validation`). Nothing is random.

Shapes: n images, K members, C classes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from petl_vit.cascade import CascadeAnswer, Score, Stage, answers, scores
from petl_vit.combine import Array, softmax

DEFAULT = Score.CONFIDENCE
NEVER = sys.float_info.max
"""The threshold that no score reaches: all members are asked."""
_LOWEST, _HIGHEST = 0.05, 20.0
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class LearntCascade:
    """A cascade's order and thresholds.

    Attributes:
        order: The members' indices, as they are asked.
        stages: One for each number of members asked; all but the last have one threshold.
        expected_loss: Of accuracy against asking all, on the images that it was learnt on.
    """

    score: Score
    order: tuple[int, ...]
    stages: tuple[Stage, ...]
    expected_loss: float

    @property
    def threshold(self) -> float:
        """The score from which on an answer stands."""
        threshold = self.stages[0].threshold
        assert threshold is not None, "a cascade has two members or more"
        return threshold

    def answers(self, logits: Array) -> CascadeAnswer:
        """What it says of images, whose logits [n, K, C] are in the members' own order."""
        return answers(logits, self.score, self.stages, order=self.order)


def learn(logits: Array, labels: NDArray[np.int64], *, loss: float, score: Score = DEFAULT) -> LearntCascade:
    """The cascade that asks fewest members at an expected loss of accuracy of at most `loss`.

    Neither the order in which members are given nor that of images changes it, and a greater loss never asks
    more.

    Args:
        logits: [n, K, C], finite, of two members or more, on images that they were not trained on.
        labels: [n].
    """
    return Learner(logits, labels).cascade(loss, score)


class Learner:
    """Learns cascades of any loss and score from the same images; order and temperatures are learnt once.

    Args:
        logits, labels: As `learn` takes them.
    """

    def __init__(self, logits: Array, labels: NDArray[np.int64]) -> None:
        self.order = order_of(logits, labels)
        self._logits = logits[:, self.order]
        means = _means(self._logits)
        self.temperatures = tuple(fit(mean, labels)[0] for mean in means)
        whole = softmax(means[-1] / self.temperatures[-1])
        named = np.stack([mean.argmax(axis=-1) for mean in means], axis=1)
        probabilities = np.take_along_axis(whole, named, axis=1)
        self._lost = probabilities[:, -1:] - probabilities
        self._scores = dict[Score, Array]()

    def cascade(self, loss: float, score: Score = DEFAULT) -> LearntCascade:
        """The cascade that asks fewest members at an expected loss of at most `loss`."""
        threshold, expected = _threshold(self._running(score), self._lost, loss)
        last = len(self.order) - 1
        stages = tuple(
            Stage(threshold=None if k == last else threshold, temperature=temperature)
            for k, temperature in enumerate(self.temperatures)
        )
        return LearntCascade(score=score, order=self.order, stages=stages, expected_loss=expected)

    def _running(self, score: Score) -> Array:
        """The highest score up to each number of members, [n, K - 1].

        An answer stands at the first that reaches the threshold.
        """
        if score not in self._scores:
            of_stages = [
                scores(self._logits[:, : k + 1], score, self.temperatures[k])
                for k in range(len(self.order) - 1)
            ]
            self._scores[score] = np.maximum.accumulate(np.stack(of_stages, axis=1), axis=1)
        return self._scores[score]


def order_of(logits: Array, labels: NDArray[np.int64]) -> tuple[int, ...]:
    """The members' indices in the order in which they are best asked.

    Args:
        logits: [n, K, C].
        labels: [n].
    """
    remaining, order = list(range(logits.shape[1])), list[int]()
    total = np.zeros_like(logits[:, 0])
    while remaining:
        share = 1 / (len(order) + 1)
        costs = {member: fit((total + logits[:, member]) * share, labels)[1] for member in remaining}
        best = min(remaining, key=costs.__getitem__)
        total = total + logits[:, best]
        order.append(best)
        remaining.remove(best)
    return tuple(order)


def fit(logits: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
    """The temperature with the lowest negative log-likelihood of the labels, and that likelihood.

    Labels are smoothed by 1 / (n + 2), as in `training.measure.calibration.fit_temperature`; the temperature
    is found to 1 %, as hundreds of them are fitted for one cascade.

    Args:
        logits: [n, C].
    """
    z = logits - logits.max(axis=-1, keepdims=True)
    smoothing = 1 / (len(labels) + 2)
    of_labels = np.take_along_axis(z, labels[:, None], axis=-1)[:, 0]
    target = float(((1 - smoothing) * of_labels + smoothing * z.mean(axis=-1)).mean())

    def nll(log_t: float) -> float:
        inverse = float(np.exp(-log_t))
        return float(np.log(np.exp(z * inverse).sum(axis=-1)).mean()) - target * inverse

    bounds = (float(np.log(_LOWEST)), float(np.log(_HIGHEST)))
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-2})
    return float(np.exp(found.x)), float(found.fun)


def _threshold(running: Array, lost: Array, loss: float) -> tuple[float, float]:
    """The lowest threshold from which on upwards the mean of what is lost stays within `loss`, and that mean.

    Args:
        running: [n, K - 1], rising along the members.
        lost: [n, K], what is lost where the answer stands after each number of members.
    """
    n = len(running)
    rank = np.argsort(running, axis=None)
    reached = running.ravel()[rank]
    # An image whose running score is below the threshold at a stage has what it loses moved to the next one.
    moved = np.concatenate([[0.0], np.cumsum(np.diff(lost, axis=1).ravel()[rank])])
    thresholds, first = np.unique(reached, return_index=True)
    expected = (lost[:, 0].sum() + np.append(moved[first], moved[-1])) / n
    thresholds = np.append(thresholds, NEVER)
    expected[-1] = 0.0
    above = np.flatnonzero(expected > loss + _ROUNDING)
    at = 0 if len(above) == 0 else int(above[-1]) + 1
    return float(thresholds[at]), float(expected[at])


def _means(logits: Array) -> Sequence[Array]:
    """The mean logits [n, C] of the first member, of the first two, and so on."""
    return [logits[:, : k + 1].mean(axis=1) for k in range(logits.shape[1])]
