"""Answers that were made up, to be counted by hand."""

from collections.abc import Sequence

import numpy as np

from petl_vit.combine import Combine
from training.measure.arrays import Rows
from training.measure.logits import Stacked
from training.measure.scores import Scored, score


def logits_of(predicted: Sequence[int], classes: int, margins: Sequence[float] | None = None) -> Rows:
    """[n, C] in which each image's class leads by a margin."""
    margins = margins or [4.0] * len(predicted)
    z = np.zeros((len(predicted), classes), dtype=np.float32)
    z[np.arange(len(predicted)), list(predicted)] = margins
    return z


def answered(
    labels: Sequence[int], *columns: Rows, rule: Combine = Combine.MEAN, temperature: float = 1.0
) -> Scored:
    """Members of equal weight that answer together."""
    truth, weights = np.array(labels, dtype=np.int64), np.ones(len(columns))
    return score(Stacked(columns), truth, weights, rule=rule, temperature=temperature)


def random_logits(n: int, classes: int, *, seed: int, labels: Sequence[int], strength: float = 1.5) -> Rows:
    """[n, C] of a model that is right more often than not."""
    z = np.random.default_rng(seed).normal(size=(n, classes)).astype(np.float32)
    z[np.arange(n), list(labels)] += strength
    return z
