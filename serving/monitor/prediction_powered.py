"""Accuracy from few labels and many predictions, whatever decided which images were labelled.

*Prediction-powered* (arXiv 2301.09633): the mean expected correctness of all images, corrected by how far it
was off on images that were chosen by chance with known probabilities; each counts 1/probability.
*Post-stratified*: the labels at hand, each bin of confidence weighted by its share of all images. Pure
numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from serving.monitor.intervals import Range, Z, share, student

FEWEST_LABELS = 10
"""Labels, as many as tell as much as the weighted ones, below which there is no interval."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over labelled images: w is 1/probability, d is 1 or 0 for a right or wrong answer, less its
    expectation.

    Attributes:
        w, w2: Of w and of w^2.
        wd, w2d, w2d2: Of w d, of w^2 d and of w^2 d^2.
    """

    w: float
    w2: float
    wd: float
    w2d: float
    w2d2: float

    @classmethod
    def counted(cls, moments: Mapping[str, float]) -> "Moments":
        """From the counters, which hold positive and negative parts apart because they may only rise."""
        return cls(
            w=moments.get("w", 0.0),
            w2=moments.get("w2", 0.0),
            wd=moments.get("up", 0.0) - moments.get("down", 0.0),
            w2d=moments.get("w2_up", 0.0) - moments.get("w2_down", 0.0),
            w2d2=moments.get("w2_square", 0.0),
        )

    @property
    def labels(self) -> float:
        """How many labels of equal weights would tell as much."""
        return self.w**2 / self.w2 if self.w2 > 0 else 0.0


def prediction_powered(
    *, images: float, expected: float, squares: float | None, moments: Moments
) -> tuple[float, Range] | None:
    """The accuracy and its interval; None where labels or images are too few.

    Args:
        images: All that were answered.
        expected: The sum of their expected correctness, which is in [0, 1].
        squares: The sum of its squares; None takes the most that it can be.
    """
    if images <= 1 or moments.labels < FEWEST_LABELS:
        return None
    mean, off = expected / images, moments.wd / moments.w
    square = mean if squares is None else squares / images
    predictions = max(square - mean**2, 0.0) / images
    value = mean + off
    scatter = max(moments.w2d2 - 2 * off * moments.w2d + off**2 * moments.w2, 0.0)
    # Never zero, however few labels agree: as with half a right and half a wrong label more.
    kept = share(value)
    scatter += 0.5 * (moments.w2 / moments.w) ** 2 * (kept**2 + (1 - kept) ** 2)
    labels = scatter / moments.w**2
    # The variance of few labels is itself uncertain: hence Student's quantile, and n - 1.
    freedom = moments.labels - 1
    spread = student(freedom) * math.sqrt(predictions + labels * moments.labels / freedom)
    return kept, (share(value - spread), share(value + spread))


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """What the bins say.

    Attributes:
        covered: Share of the images whose bin has labels.
    """

    accuracy: float
    interval: Range
    covered: float


def post_stratified(
    images: Mapping[str, float], labels: Mapping[str, float], correct: Mapping[str, float]
) -> Stratified | None:
    """The accuracy over all images, by bins of confidence; None where no bin has both images and labels.

    The interval allows any accuracy for images in bins without labels.
    """
    total = sum(images.values())
    bins = [name for name, count in images.items() if count > 0 and labels.get(name, 0) > 0]
    known = sum(images[name] for name in bins)
    if not known:
        return None
    accuracy, variance = 0.0, 0.0
    for name in bins:
        weight, count = images[name] / known, labels[name]
        right = min(correct.get(name, 0.0), count)
        accuracy += weight * right / count
        # Never zero, however few labels agree: as with half a right and half a wrong label more.
        kept = (right + 0.5) / (count + 1)
        variance += weight**2 * kept * (1 - kept) / count
    spread, covered = Z * math.sqrt(variance), known / total
    low, high = share(accuracy - spread), share(accuracy + spread)
    return Stratified(
        accuracy=accuracy, interval=(low * covered, high * covered + 1 - covered), covered=covered
    )
