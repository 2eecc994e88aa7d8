"""Intervals at 95 % of shares, and of sums of things that are known to an interval. Pure numbers."""

import math
from statistics import NormalDist

Range = tuple[float, float]

NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)


def probit(share: float) -> float:
    """The normal quantile; the share lies strictly between 0 and 1."""
    return NORMAL.inv_cdf(share)


def wilson(count: float, n: float) -> Range:
    """Of the mean of `n` numbers in [0, 1] whose sum is `count`: Wilson's score interval.

    Right for zeros and ones, and too wide for numbers between them, which vary less.
    """
    if n <= 0:
        return 0.0, 1.0
    share = min(max(count / n, 0.0), 1.0)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    middle = share + Z * Z / (2 * n)
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def around(value: float, *parts: tuple[float, Range]) -> Range:
    """Of a sum or difference of independent parts, each given as its value and its interval.

    The distances to the ends of the parts' intervals are added as squares (Newcombe 1998), which respects
    that intervals of shares near 0 and 1 are lopsided. A part that is subtracted is given with both signs
    changed.
    """
    below = math.sqrt(sum((part - low) ** 2 for part, (low, _) in parts))
    above = math.sqrt(sum((high - part) ** 2 for part, (_, high) in parts))
    return share(value - below), share(value + above)


def negative(value: float, interval: Range) -> tuple[float, Range]:
    """A part of `around` that is subtracted."""
    low, high = interval
    return -value, (-high, -low)


def share(value: float) -> float:
    """The nearest number in [0, 1]."""
    return min(max(value, 0.0), 1.0)


def student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, from the normal one; to 1 % from 4 degrees of freedom on."""
    z, n = Z, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
