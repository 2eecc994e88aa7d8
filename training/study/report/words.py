"""Numbers as the page writes them: per cents, points, intervals and p values."""

from collections.abc import Sequence
from typing import Final

from training.measure.figures import Difference, Result

ALPHA: Final = 0.05
"""The level of every test on the page."""


def percent(share: float) -> str:
    """0.9337 is 93.4 %."""
    return f"{100 * share:.1f}\u00a0%"


def points(difference: float) -> str:
    """A difference of accuracies without its sign: 0.0131 is 1.3 points."""
    return f"{abs(100 * difference):.1f} points"


def signed(difference: float) -> str:
    """A difference of accuracies in points with its sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def accuracy(result: Result) -> str:
    """An accuracy with its interval."""
    return f"{percent(result.accuracy)} ({100 * result.low:.1f} to {100 * result.high:.1f})"


def told(difference: Difference) -> int:
    """1 where more than chance is above zero, -1 where it is below, 0 where that cannot be told.

    Both the interval and McNemar's test, where there is one, have to say so.
    """
    if difference.mcnemar_p is not None and difference.mcnemar_p >= ALPHA:
        return 0
    return (difference.low > 0) - (difference.high < 0)


def compared(difference: Difference, more: str, less: str) -> str:
    """Which of two phrases a difference allows; where it may be chance, that."""
    return {1: more, 0: "not measurably different from", -1: less}[told(difference)]


def decimal(number: float) -> str:
    """Two decimals, with a minus sign."""
    return f"{number:.2f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p value with two digits where they say something."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def evidence(difference: Difference, p: float | None = None) -> str:
    """The interval and the test of a difference.

    Args:
        p: Instead of the difference's own p value, one that is adjusted for several tests.
    """
    shown = difference.mcnemar_p if p is None else p
    name = "McNemar" if p is None else "adjusted McNemar"
    test = "" if shown is None else f"; {name} {p_value(shown)}"
    return f"95 % interval {signed(difference.low)} to {signed(difference.high)} points{test}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """a, b and c; of many names the first, and how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(number: int, noun: str, plural: str = "") -> str:
    """1 image, 2 images."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
