"""Effective robustness: accuracy under a shift beyond what accuracy without it leads one to expect.

Models that are trained on one set alone lie near a line in probit scale, accuracy there over accuracy here
(Taori et al., arXiv 2007.00644; Miller et al., arXiv 2107.04649). What stands above that line is robust, and
not just better. The line goes through the base and every adapter as it was trained, but for the one in
question. Models of equal accuracy tell no slope: then it is 1.
"""

from collections.abc import Mapping

import numpy as np
from scipy import stats

from training.measure.figures import Line

FEWEST = 4
"""Models that a slope is fitted to at least."""
SPREAD = 0.1
"""Their standard deviation on the first set at least, in probits: below it the slope is noise."""


def probit(accuracy: float, images: int) -> float:
    """The accuracy in probit scale; finite for 0 and 1, which so many images do not prove."""
    return float(stats.norm.ppf((accuracy * images + 0.5) / (images + 1)))


def fitted(points: Mapping[str, tuple[float, float]], here: int, there: int) -> Line | None:
    """The line through some models; None where there is none.

    Args:
        points: Accuracy on the first set and on the other, by label.
        here, there: Images of the two sets.
    """
    if not points:
        return None
    x = np.array([probit(a, here) for a, _ in points.values()])
    y = np.array([probit(b, there) for _, b in points.values()])
    if len(x) >= FEWEST and x.std() >= SPREAD:
        fit = stats.linregress(x, y)
        if fit.slope > 0:
            return Line(
                slope=float(fit.slope),
                intercept=float(fit.intercept),
                models=tuple(points),
                r2=float(fit.rvalue**2),
                fixed=False,
            )
    return Line(slope=1.0, intercept=float((y - x).mean()), models=tuple(points), r2=None, fixed=True)


def beyond(line: Line, accuracy_here: float, here: int, accuracy_there: float) -> float:
    """The accuracy there less that which the line gives for the accuracy here."""
    expected = stats.norm.cdf(line.intercept + line.slope * probit(accuracy_here, here))
    return accuracy_there - float(expected)
