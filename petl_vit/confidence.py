"""Where confidences are counted: the edges of their histogram and their bins.

Serving counts by them, and references say what is usual. Neither ever changes within a series' life: other
edges are another metric.
"""

import numpy as np
from numpy.typing import NDArray

EDGES = (
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.75,
    0.8,
    0.85,
    0.9,
    0.925,
    0.95,
    0.97,
    0.98,
    0.99,
    0.995,
    0.999,
    1.0,
)
"""Upper edges of the histogram; each includes what lies on it. They are finer towards 1,
where most confidences are."""

BINS = 10
"""Bin 0 is [0, 0.1), bin 9 is [0.9, 1]."""


def bin_of(confidence: float) -> int:
    """The bin of a confidence."""
    return min(max(int(confidence * BINS), 0), BINS - 1)


def bins_of(confidences: NDArray[np.float64]) -> NDArray[np.int64]:
    """As `bin_of`, of each."""
    bins: NDArray[np.int64] = np.clip((confidences * BINS).astype(np.int64), 0, BINS - 1)
    return bins


def cumulative(confidences: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] -> [edges]: the share that does not exceed each edge."""
    counts = np.searchsorted(np.sort(confidences), EDGES, side="right")
    shares: NDArray[np.float64] = counts / len(confidences)
    return shares
