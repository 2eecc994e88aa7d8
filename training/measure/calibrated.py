"""What a fitted temperature would do to a route's probabilities, scored on other images.

The temperature is fitted to the first set. On that set itself each half of the images is scored at the
temperature of the other half.

Shapes: n images, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch

from petl_vit.combine import Combine
from training.measure.arrays import Flags, Labels
from training.measure.calibration import calibrate
from training.measure.candidate import Candidate
from training.measure.logits import Logits, weights_of
from training.measure.scores import Honesty, scored

_NUMBERS = 2 * 10**6  # logits that one temperature is fitted to at most
_FEWEST = 1000  # images of these at least, however many classes there are
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The temperature of a route on the first set, and those of its halves.

    Attributes:
        halves: Fitted to the second half, which scores the first, and the other way round.
    """

    temperature: float
    halves: tuple[float, float]


def fitted(candidate: Candidate, logits: Logits, labels: Labels) -> Fitted | None:
    """None where the images do not tell a temperature, or the route does not combine logits."""
    if candidate.route.combine is not Combine.MEAN:
        return None
    n = len(labels)
    order, first = np.random.default_rng(_SEED).permutation(n), in_first_half(n)
    found = []
    for part in (order, order[~first[order]], order[first[order]]):
        some = part[: max(_FEWEST, _NUMBERS // len(candidate.route.classes))]
        z = logits.stacked(candidate.route).mean(weights_of(candidate.route), some)
        one = calibrate(torch.from_numpy(z), torch.from_numpy(labels[some]))
        if one.unfitted:
            return None
        found.append(one.temperature)
    return Fitted(temperature=found[0], halves=(found[1], found[2]))


def in_first_half(n: int) -> Flags:
    """[n], which images are in the first of two halves, at random."""
    flags = np.zeros(n, dtype=np.bool_)
    flags[np.random.default_rng(_SEED).permutation(n)[: n // 2]] = True
    return flags


def calibrated(
    candidate: Candidate, logits: Logits, labels: Labels, fit: Fitted, *, is_first: bool
) -> Honesty:
    """A route's probabilities at the fitted temperature.

    Args:
        is_first: Whether this is the set that it was fitted to.
    """
    if not is_first:
        return scored(candidate, logits, labels, temperature=fit.temperature).honesty
    here, there = (scored(candidate, logits, labels, temperature=t).honesty for t in fit.halves)
    return there.replaced(in_first_half(len(labels)), here, temperature=fit.temperature)
