"""Small plots as paths of SVG: geometry only. The template draws them, the style gives their colours.

A plot is 100 wide and 100 high and is stretched to its place; a missing number breaks a line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SIZE = 100.0

Series = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The shares that are at the bottom and at the top of a plot."""

    low: float
    high: float = 1.0

    def y(self, value: float) -> float:
        """How far from the top."""
        return round(SIZE * (1 - self.share(value)), 1)

    def x(self, value: float) -> float:
        """How far from the left, where the scale lies on its side."""
        return round(SIZE * self.share(value), 1)

    def share(self, value: float) -> float:
        """Where a value lies between them, from 0 to 1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What changed over time.

    Attributes:
        words: What it shows, for those who do not see it.
        lines: A path by its class of the style.
        level: Where a line across lies; None where there is none.
        low, high: What stands beside its bottom and its top.
        start, end: What stands below its ends.
    """

    words: str
    lines: tuple[tuple[str, str], ...]
    level: float | None = None
    low: str = ""
    high: str = ""
    start: str = ""
    end: str = ""


def scale_of(*values: float | None) -> Scale:
    """From the tenth below the lowest value to 1, so that a change of a point can be seen."""
    known = [value for value in values if value is not None]
    lowest = min(known, default=0.0)
    return Scale(low=max(0.0, min(math.floor(lowest * 10 + 1e-9) / 10, 0.9)))


def line(times: Sequence[float], values: Series, scale: Scale) -> str:
    """A path through values at their times; a value alone is a dot."""
    parts: list[str] = []
    drawing = False
    for place, (x, value) in enumerate(zip(_across(times), values, strict=True)):
        if value is None:
            drawing = False
            continue
        parts.append(f"{'L' if drawing else 'M'}{x:g} {scale.y(value):g}")
        if not drawing and (place + 1 == len(values) or values[place + 1] is None):
            parts.append("h0")
        drawing = True
    return "".join(parts)


def bars(times: Sequence[float], amounts: Sequence[float]) -> str:
    """A path of upright strokes, each as high as its amount is beside the largest."""
    most = max(amounts, default=0.0)
    return "".join(
        f"M{x:g} {SIZE:g}V{round(SIZE * (1 - amount / most), 1):g}"
        for x, amount in zip(_across(times), amounts, strict=True)
        if amount > 0
    )


def _across(times: Sequence[float]) -> list[float]:
    """Where moments lie from left to right; a moment alone is at the right."""
    if not times:
        return []
    first, length = times[0], times[-1] - times[0]
    return [round(SIZE * (time - first) / length, 1) if length > 0 else SIZE for time in times]
