"""Two routes on the same images: is one better, and do they err alike?

Shapes: n images.
"""

from itertools import combinations

import numpy as np
from scipy.special import bdtr

from training.measure.arrays import Flags, Floats, Labels
from training.measure.figures import Comparison, Difference, Pair
from training.measure.scores import Scored

CONFIDENT_SHARE = 0.2
RESAMPLES = 5000
_SEED = 0


def difference(a: Flags | Floats, b: Flags | Floats) -> Difference:
    """The accuracy of a less that of b.

    Args:
        a, b: [n], whether each image is answered rightly; a mean over several answers may lie between.
    """
    gap = a.astype(np.float64) - b.astype(np.float64)
    low, high = bootstrap_interval(gap)
    found = {"difference": float(gap.mean()), "low": low, "high": high}
    if a.dtype != np.bool_ or b.dtype != np.bool_:
        return Difference(**found, mcnemar_p=None, only_a=None, only_b=None)
    only_a, only_b = int((gap > 0).sum()), int((gap < 0).sum())
    return Difference(**found, mcnemar_p=mcnemar(only_a, only_b), only_a=only_a, only_b=only_b)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test: images that only one says rightly fall to either evenly."""
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def bootstrap_interval(values: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, resampling the images.

    Images of equal value are exchangeable, so resamples are drawn as counts of each value: the same
    distribution as drawing images, in a fraction of the time.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(_SEED).multinomial(len(values), counts / len(values), size=RESAMPLES)
    low, high = np.quantile(drawn @ distinct / len(values), [0.025, 0.975])
    return float(low), float(high)


def comparisons(on: str, scored: dict[str, Scored]) -> list[Comparison]:
    """Every two routes on one set, by label."""
    return [
        Comparison(set=on, a=a, b=b, n=len(one.labels), **dict(difference(one.correct, other.correct)))
        for (a, one), (b, other) in combinations(scored.items(), 2)
    ]


def pairs(on: str, scored: dict[str, Scored], classes: int) -> list[Pair]:
    """Every two routes of one model each on one set, by label."""
    surest = {label: _extremes(one) for label, one in scored.items()}
    return [
        _pair(on, (a, b), (one, other), (surest[a], surest[b]), classes)
        for (a, one), (b, other) in combinations(scored.items(), 2)
    ]


def _pair(
    on: str,
    names: tuple[str, str],
    scored: tuple[Scored, Scored],
    extremes: tuple[tuple[Flags, Flags], tuple[Flags, Flags]],
    classes: int,
) -> Pair:
    one, other = scored
    same = one.predicted == other.predicted
    wrong, either = ~one.correct & ~other.correct, ~one.correct | ~other.correct
    return Pair(
        set=on,
        a=names[0],
        b=names[1],
        agreement=float(same.mean()),
        kappa=_kappa(one, other, classes),
        both_right=int((one.correct & other.correct).sum()),
        only_a=int((one.correct & ~other.correct).sum()),
        only_b=int((other.correct & ~one.correct).sum()),
        both_wrong=int(wrong.sum()),
        error_overlap=_share(int(wrong.sum()), int(either.sum())),
        same_error=_share(int((wrong & same).sum()), int(wrong.sum())),
        confident_overlap=overlap(extremes[0][0], extremes[1][0]),
        doubtful_overlap=overlap(extremes[0][1], extremes[1][1]),
    )


def _kappa(one: Scored, other: Scored, classes: int) -> float | None:
    """Cohen's; None where chance alone makes the two agree on everything."""
    n = len(one.labels)
    shares = [np.bincount(s.predicted, minlength=classes) / n for s in (one, other)]
    expected = float(shares[0] @ shares[1])
    observed = float((one.predicted == other.predicted).mean())
    return None if np.isclose(expected, 1.0) else (observed - expected) / (1 - expected)


def _extremes(scored: Scored) -> tuple[Flags, Flags]:
    """Right among the surest, and wrong among the least sure: [n] each."""
    n = len(scored.labels)
    order = np.argsort(-scored.honesty.confidence, kind="stable")
    size = max(1, round(CONFIDENT_SHARE * n))
    return _flags(order[:size], n) & scored.correct, _flags(order[-size:], n) & ~scored.correct


def overlap(a: Flags, b: Flags) -> float | None:
    """What two sets have in common, as a share of their mean size; None of two empty ones."""
    return _share(2 * int((a & b).sum()), int(a.sum()) + int(b.sum()))


def _flags(places: Labels, n: int) -> Flags:
    flags = np.zeros(n, dtype=np.bool_)
    flags[places] = True
    return flags


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
