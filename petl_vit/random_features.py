"""Random Fourier features (Rahimi and Recht, 2007): their means over two sets differ as the sets do.

The squared distance of two means is the squared MMD of the sets under a Gaussian kernel. A seed says which
features; both sides of a comparison compute the same from it.

Shapes: n images, D the backbone's width, R random features.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_COMPARED = 512  # vectors whose distances choose the bandwidth


@dataclass(frozen=True, kw_only=True)
class RandomFeatures:
    """Which random features.

    Attributes:
        width: D.
        count: R.
        bandwidth: Of the kernel exp(-|x - y|^2 / (2 bandwidth^2)).
    """

    width: int
    count: int
    bandwidth: float
    seed: int = 0

    @cached_property
    def _directions(self) -> tuple[Array, Array]:
        # The stream of RandomState never changes, that of newer generators may.
        random = np.random.RandomState(self.seed)
        directions = random.standard_normal((self.width, self.count))
        return directions / self.bandwidth, random.uniform(0, 2 * np.pi, self.count)

    def of(self, vectors: Array) -> Array:
        """[n, D] -> [n, R]."""
        directions, phases = self._directions
        features: Array = np.sqrt(2 / self.count) * np.cos(vectors @ directions + phases)
        return features


def bandwidth(vectors: Array) -> float:
    """The median distance of two different vectors among the first of [n, D]; 1 where there are none."""
    some = vectors[:_COMPARED]
    squares = (some**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * some @ some.T
    upper = distances[np.triu_indices(len(some), k=1)]
    median = float(np.sqrt(max(np.median(upper), 0.0))) if len(upper) else 0.0
    return median or 1.0
