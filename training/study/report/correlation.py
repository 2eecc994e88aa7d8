"""Whether two orders are related, with a test that is right for few values too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test, rankdata

FEWEST: Final = 5
"""Of four values not even the same order is more than chance: its p value is 2 in 24."""
_RESAMPLES = 9_999


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Of the ranks of two lists.

    Attributes:
        rank: Spearman's, from -1 to 1; 0 where one of the lists has no order.
        p: Two-sided, of a permutation test: exact for up to seven values, else of 9,999 drawn permutations.
    """

    rank: float
    p: float


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> Correlation:
    """Of two lists [n] of one length."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return Correlation(rank=0.0, p=1.0)
    fixed = _standard(b)
    found = permutation_test(
        (_standard(a),),
        lambda moved, axis: np.tensordot(moved, fixed, axes=([axis], [0])),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return Correlation(rank=float(found.statistic), p=float(found.pvalue))


def _standard(values: Sequence[float]) -> NDArray[Any]:
    """Ranks [n] with mean 0 and length 1, so that the product of two is their correlation."""
    ranks = rankdata(values)
    centred = ranks - ranks.mean()
    unit: NDArray[Any] = centred / np.linalg.norm(centred)
    return unit
