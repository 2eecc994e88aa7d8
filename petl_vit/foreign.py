"""How far frozen features are from those of reference images: what tells a foreign input without its answer.

Features are scaled to length 1. Those of reference images lie near a plane, through their mean and along the
directions in which they differ most; the distance is that from this plane. docs/decisions/0030 compares it
with others. Measuring and serving both compute it here. Pure functions on float64 arrays.

Shapes: n images, D the backbone's width, R the directions of the plane.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARE = 0.95
"""Of the reference images, that are not farther than the quantile."""

RANK = 16
_FEWEST = 4  # images for each direction: fewer do not tell where others will lie
_FOLDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """Where features of length 1 lie.

    Attributes:
        centre: [D]
        directions: [R, D], orthonormal; R may be 0. Both are numbers of float16, as they are kept.
    """

    centre: Array
    directions: Array

    @classmethod
    def through(cls, vectors: Array) -> Self:
        """The plane of [n, D]: it has `RANK` directions, or fewer where images or D are few."""
        units = _units(vectors)
        centre, (n, width) = units.mean(axis=0), units.shape
        rank = min(RANK, n // _FEWEST, width // 2)
        _, axes = np.linalg.eigh((units - centre).T @ (units - centre))
        return cls(centre=_kept(centre), directions=_kept(axes[:, width - rank :].T[::-1]))

    def distance(self, vectors: Array) -> Array:
        """[n, D] -> [n], at most 2; NaN where a vector is not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            offsets = _units(vectors) - self.centre
            offsets = offsets - (offsets @ self.directions.T) @ self.directions
            distances: Array = np.linalg.norm(offsets, axis=-1)
        return distances


class Statistics(Protocol):
    """What is kept of the reference images' features: `Reference.features` is one."""

    @property
    def mean(self) -> Sequence[float]:
        """[D]"""

    @property
    def variance(self) -> Sequence[float]:
        """[D]"""

    @property
    def plane(self) -> Plane | None:
        """None where the reference was measured before there were planes."""

    @property
    def distance(self) -> float:
        """What 95 % of the reference images do not exceed."""


def distance(features: Statistics, vectors: Array) -> Array:
    """[n, D] -> [n]: the distance from the reference images; NaN where a vector is not finite."""
    if features.plane is not None:
        return features.plane.distance(vectors)
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


def left_out(vectors: Array) -> Array:
    """[n, D] -> [n]: the distance of each vector from the plane of others, a fifth being left out at a time.

    A vector is nearer to a plane that it is part of than a new one is; the fewer there are, the more so.
    """
    folds = np.arange(len(vectors)) % min(_FOLDS, len(vectors))
    distances = np.empty(len(vectors))
    for fold in set(folds.tolist()):
        out = folds == fold
        distances[out] = Plane.through(vectors if out.all() else vectors[~out]).distance(vectors[out])
    return distances


def standardised(mean: Array, variance: Array, vectors: Array) -> Array:
    """[D], [D], [n, D] -> [n]: sqrt(mean over D of (x - mean)^2 / variance); a variance of 0 counts as 1.

    The distance of references without a plane.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        squares = (vectors - mean) ** 2 / np.where(variance > 0, variance, 1.0)
        distances: Array = np.sqrt(squares.mean(axis=-1))
    return np.where(np.isfinite(distances), distances, np.nan)


def _kept(numbers: Array) -> Array:
    return numbers.astype(np.float16).astype(np.float64)


def _units(vectors: Array) -> Array:
    """Scaled to length 1; 0 stays 0, and what is not finite becomes NaN."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / np.where(largest > 0, largest, 1.0)
    lengths = np.linalg.norm(scaled, axis=-1, keepdims=True)
    units: Array = scaled / np.where(lengths > 0, lengths, 1.0)
    return units
