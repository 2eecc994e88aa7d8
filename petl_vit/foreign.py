"""How far frozen features are from those of reference images: what tells a foreign input without its answer.

A reference keeps statistics of its images' features and what 95 % of the images do not exceed. Measuring and
serving both compute the distance here. Pure functions on float64 arrays.

Shapes: n images, D the backbone's width.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARE = 0.95
"""Of the reference images, that are not farther than the quantile."""


class Statistics(Protocol):
    """What is kept of the reference images' features: `Reference.features` is one."""

    @property
    def mean(self) -> Sequence[float]:
        """[D]"""

    @property
    def variance(self) -> Sequence[float]:
        """[D]"""

    @property
    def distance(self) -> float:
        """What 95 % of the reference images do not exceed."""


def distance(features: Statistics, vectors: Array) -> Array:
    """[n, D] -> [n]: the distance from the reference images; NaN where a vector is not finite."""
    return standardised(np.asarray(features.mean), np.asarray(features.variance), vectors)


def ratio(features: Statistics, vectors: Array) -> Array:
    """[n, D] -> [n]: the distance, divided by what 95 % of the reference images do not exceed.

    An image is foreign where this exceeds 1. Where all reference images are alike, any other is infinitely
    far.
    """
    distances = distance(features, vectors)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: Array = np.where(distances == 0, 0.0, distances / features.distance)
    return ratios


def standardised(mean: Array, variance: Array, vectors: Array) -> Array:
    """[D], [D], [n, D] -> [n]: sqrt(mean over D of (x - mean)^2 / variance); a variance of 0 counts as 1."""
    with np.errstate(invalid="ignore", over="ignore"):
        squares = (vectors - mean) ** 2 / np.where(variance > 0, variance, 1.0)
        distances: Array = np.sqrt(squares.mean(axis=-1))
    return np.where(np.isfinite(distances), distances, np.nan)


def left_out(vectors: Array) -> Array:
    """[n, D] -> [n]: the distance of each vector from all others.

    A vector is nearer to statistics that it is part of than a new one is; the fewer there are, the more so.
    """
    n, mean, variance = len(vectors), vectors.mean(axis=0), vectors.var(axis=0)
    if n < 3:
        return standardised(mean, variance, vectors)
    # The mean and the variance without x, from those with it.
    step = n / (n - 1)
    others = step * variance - step / (n - 1) * (vectors - mean) ** 2
    others[others <= variance * 1e-12] = 0.0
    return standardised(mean - (vectors - mean) / (n - 1), others, vectors)
