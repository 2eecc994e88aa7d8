"""Accuracy from how often the members of an ensemble agree: agreement on the line.

Where the members' accuracies under a shift lie on a line over those on the reference, in probit units, their
pairs' agreements lie on the same line (arXiv 2206.13089); agreements need no labels. The line tells only
where it fits (R^2), where the members differ enough to fit one, and where they start from heads of their own
(arXiv 2404.01542). With its slope fixed at 1 it is steadier for members that are nearly equally good.

Probit is the quantile of the normal distribution. Pure numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.monitor.intervals import NORMAL, Range, Z, probit

LEAST, MOST = 0.05, 0.98
"""Pairs that agree less or more often than this have too noisy probits for a line."""
FEWEST_PAIRS, FEWEST_IMAGES, FEWEST_R2 = 6, 500, 0.95
"""What a line needs before estimates are made from it."""
_FLAT = 1e-6  # variance of the reference's probits below which no slope can be told


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two members, and the share of images on which they name one class.

    Attributes:
        reference, window: The shares.
        images: Of the window, that both scored.
    """

    first: str
    second: str
    reference: float
    window: float
    images: float

    @property
    def clear(self) -> bool:
        """Whether it may take part in a line."""
        return LEAST < self.reference < MOST and LEAST < self.window < MOST


@dataclass(frozen=True, kw_only=True)
class Fit:
    """y = slope x + bias through the pairs' probits, x on the reference and y in the window.

    Attributes:
        residual: Their variance about the line.
        middle, scatter: The mean of x, and the sum of squares about it.
        noise: What chance does to the mean of y and to that of x, as standard deviations.
    """

    pairs: tuple[Pair, ...]
    slope: float
    bias: float
    r2: float
    residual: float
    middle: float
    scatter: float
    noise: tuple[float, float]

    @property
    def why_not(self) -> str:
        """Why no estimate should be made from it; empty where one may."""
        images = min(pair.images for pair in self.pairs)
        if len(self.pairs) < FEWEST_PAIRS:
            return f"{len(self.pairs)} usable pairs of members; {FEWEST_PAIRS} are needed"
        if images < FEWEST_IMAGES:
            return f"{images:.0f} images; {FEWEST_IMAGES} are needed"
        if self.r2 < FEWEST_R2:
            return f"the pairs do not lie on a line: R^2 is {self.r2:.2f}, {FEWEST_R2} is needed"
        return ""


def fit(pairs: Sequence[Pair], reference_images: int) -> Fit | None:
    """The least-squares line; None where fewer than 3 pairs are usable, or all agree alike."""
    kept = tuple(pair for pair in pairs if pair.clear)
    if len(kept) < 3:
        return None
    x = np.array([probit(pair.reference) for pair in kept])
    y = np.array([probit(pair.window) for pair in kept])
    scatter = float(((x - x.mean()) ** 2).sum())
    if scatter / len(kept) < _FLAT:
        return None
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / scatter
    bias = float(y.mean() - slope * x.mean())
    rest = y - slope * x - bias
    total = float(((y - y.mean()) ** 2).sum())
    return Fit(
        pairs=kept,
        slope=slope,
        bias=bias,
        r2=1 - float((rest**2).sum()) / total if total > 0 else 0.0,
        residual=float((rest**2).sum()) / (len(kept) - 2),
        middle=float(x.mean()),
        scatter=scatter,
        noise=(
            _noise([(pair.window, pair.images) for pair in kept]),
            _noise([(pair.reference, reference_images) for pair in kept]),
        ),
    )


def on_the_line(line: Fit, accuracy: float, reference_images: int) -> tuple[float, Range]:
    """ALine-S: what an accuracy on the reference becomes, and its interval."""
    x = probit(inside(accuracy, reference_images))
    own = line.slope * probit_noise(accuracy, reference_images)
    fitted = line.residual * (1 / len(line.pairs) + (x - line.middle) ** 2 / line.scatter)
    return _back(line.slope * x + line.bias, math.sqrt(fitted + line.noise[0] ** 2 + own**2))


def solved(line: Fit, accuracies: Mapping[str, float], reference_images: int) -> dict[str, float]:
    """ALine-D: the members' probits in the window, by least squares over the pairs.

    What the pairs leave open, as where one member alone is in all of them, is taken to be on the line.

    Args:
        accuracies: Of every member on the reference.
    """
    members = sorted({name for pair in line.pairs for name in (pair.first, pair.second)})
    known = {name: probit(inside(accuracies[name], reference_images)) for name in members}
    place = {name: index for index, name in enumerate(members)}
    matrix: NDArray[np.float64] = np.zeros((len(line.pairs), len(members)))
    right = np.empty(len(line.pairs))
    for row, pair in enumerate(line.pairs):
        matrix[row, [place[pair.first], place[pair.second]]] = 0.5
        right[row] = probit(pair.window) - line.slope * probit(pair.reference) - line.bias
    # The unknowns are the members' distances from the line: of all solutions this one has the smallest.
    off = np.linalg.lstsq(matrix, right, rcond=None)[0]
    return {
        name: line.slope * known[name] + line.bias + float(distance)
        for name, distance in zip(members, off, strict=True)
    }


def carried(
    line: Fit, members: Mapping[str, float], accuracy: float, reference_images: int
) -> tuple[float, Range]:
    """ALine-D of an answer that takes part in no pair: it moves as the members do on average.

    Args:
        members: Accuracy of every member on the reference.
        accuracy: Of the answer on it.
    """
    window = solved(line, members, reference_images)
    moved = [y - line.slope * probit(inside(members[name], reference_images)) for name, y in window.items()]
    y = line.slope * probit(inside(accuracy, reference_images)) + sum(moved) / len(moved)
    own = line.slope * probit_noise(accuracy, reference_images)
    fitted = line.residual / len(line.pairs)
    return _back(y, math.sqrt(fitted + line.noise[0] ** 2 + own**2))


def shifted(pairs: Sequence[Pair], accuracy: float, reference_images: int) -> tuple[float, Range] | None:
    """The line with slope 1: the accuracy moves as the pairs' agreements do; None where there are none.

    Every pair takes part that agrees on more than `LEAST`: those that nearly always agree on the reference
    are where a shift shows. Both shares are moved inwards as by half an image among the fewer images of the
    two, so that equal shares stay equal.
    """
    kept = [pair for pair in pairs if min(pair.reference, pair.window) > LEAST and pair.images > 0]
    if not kept:
        return None
    moves, now, then = [], [], []
    for pair in kept:
        images = min(pair.images, reference_images)
        reference, window = inside(pair.reference, images), inside(pair.window, images)
        moves.append(probit(window) - probit(reference))
        now.append((window, pair.images))
        then.append((reference, float(reference_images)))
    noise = math.hypot(_noise(now), _noise(then), probit_noise(accuracy, reference_images))
    return _back(probit(inside(accuracy, reference_images)) + sum(moves) / len(moves), noise)


def inside(share: float, images: float) -> float:
    """A share moved off 0 and 1, as by half an image."""
    return (share * images + 0.5) / (images + 1)


def probit_noise(share: float, images: float) -> float:
    """What chance does to the probit of a share: its standard deviation."""
    kept = inside(share, images)
    return math.sqrt(kept * (1 - kept) / images) / NORMAL.pdf(probit(kept))


def _noise(shares: Sequence[tuple[float, float]]) -> float:
    """Of a mean over pairs, which share images and so may all be off in one direction."""
    return sum(probit_noise(share, images) for share, images in shares) / len(shares)


def _back(y: float, deviation: float) -> tuple[float, Range]:
    return NORMAL.cdf(y), (NORMAL.cdf(y - Z * deviation), NORMAL.cdf(y + Z * deviation))
