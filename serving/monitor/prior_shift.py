"""Accuracy where nothing but the shares of the classes has changed: black box shift estimation (BBSE).

From the confusion matrix of the reference and how often each class is answered now (arXiv 1802.03916). It is
wrong where the images of a class have changed, and says so only where no mixture of the classes explains the
answers. Pure numbers.

Shapes: C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.monitor.intervals import Range, Z, share

FEWEST_OF_CLASS = 5
"""Images of every class that a confusion matrix needs."""
WORST_CONDITION = 30.0
"""Condition number of P(answer | class) beyond which its inverse multiplies noise too much."""
MOST_NEGATIVE = 0.05
"""Share of negative classes in the solution beyond which it is not a mixture of the classes."""


@dataclass(frozen=True, kw_only=True)
class PriorShift:
    """What BBSE finds.

    Attributes:
        shares: [C], of each class now.
        why: Why not to believe it; empty where it may be believed.
    """

    accuracy: float
    interval: Range
    shares: NDArray[np.float64]
    why: str = ""


def prior_shift(confusion: NDArray[np.float64], answered: NDArray[np.float64]) -> PriorShift | str:
    """The accuracy under the classes' shares that explain the answers; or why none can be told.

    Args:
        confusion: [C, C] images of the reference, by answered class (rows) and true class (columns).
        answered: [C] images of the window, by answered class.
    """
    images, of_class = answered.sum(), confusion.sum(axis=0)
    if images == 0:
        return "no image in the window"
    if of_class.min() < FEWEST_OF_CLASS:
        return f"a class has {of_class.min():.0f} images in the reference; {FEWEST_OF_CLASS} are needed"
    given = confusion / of_class  # P(answer | class)
    condition = float(np.linalg.cond(given))
    if not condition < WORST_CONDITION:
        return f"the confusion matrix can hardly be inverted: its condition number is {condition:.0f}"
    answers = answered / images
    solution = np.linalg.solve(given, answers)
    negative = float(-solution[solution < 0].sum())
    shares = np.maximum(solution, 0)
    shares /= shares.sum()
    recall = np.diag(given)
    accuracy = float(shares @ recall)
    # By the delta method: of the answers in the window, and of every column of the confusion matrix.
    gradient = np.linalg.solve(given.T, recall)
    window = (answers @ gradient**2 - (answers @ gradient) ** 2) / images
    distance = (np.eye(len(recall)) - gradient[:, None]) ** 2
    reference = (shares**2 / of_class) @ (given * distance).sum(axis=0)
    spread = Z * float(np.sqrt(max(window, 0.0) + reference))
    return PriorShift(
        accuracy=accuracy,
        interval=(share(accuracy - spread), share(accuracy + spread)),
        shares=shares,
        why=""
        if negative <= MOST_NEGATIVE
        else "no mixture of the classes explains the answers, so more than their shares has changed",
    )
