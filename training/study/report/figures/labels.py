"""Labels beside points, where they cover neither points nor each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import cos, pi, sin
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from training.study.report.drawing import arranged
from training.study.report.theme import colour

_DISTANCES = (9, 16, 26, 40, 58, 80)  # of a label from its point, pixels
_LEADER = 20  # a label further away has a line to its point
_DIRECTIONS = 16
_MARKER = 6  # half of a marker's side
_PAD = 2

Box = tuple[float, float, float, float]
"""left, bottom, right, top in pixels."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text that belongs to a point in data coordinates."""

    x: float
    y: float
    text: str
    colour: str
    strong: bool = False


def place(
    canvas: Canvas,
    axes: Axes,
    labels: Sequence[Label],
    *,
    bars: Sequence[tuple[float, float, float]] = (),
    marks: Sequence[tuple[float, float]] = (),
) -> None:
    """Write each label where it covers least, the upper ones first.

    Args:
        bars: Vertical bars that are to stay free, as (x, low, high) in data coordinates.
        marks: Points that are to stay free, too.
    """
    arranged(canvas)
    agg: Any = FigureCanvasAgg(canvas)  # has no types
    renderer = agg.get_renderer()
    inside = axes.get_window_extent(renderer)
    frame = (inside.x0, inside.y0, inside.x1 + 4, inside.y1 + 8)
    pixels = axes.transData.transform
    points = [pixels((label.x, label.y)) for label in labels]
    fixed = [_around(x, y, _MARKER) for x, y in points]
    fixed += [_around(x, y, _MARKER / 2) for x, y in map(pixels, marks)]
    for x, low, high in bars:
        (left, bottom), (_, top) = pixels((x, low)), pixels((x, high))
        fixed.append((left - 1.5, bottom, left + 1.5, top))
    placed: list[Box] = []
    for label, (x, y) in sorted(zip(labels, points, strict=True), key=lambda pair: -pair[1][1]):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            color=colour(label.colour),
            weight="bold" if label.strong else "normal",
            va="center",
            ha="center",
        )
        text.set_in_layout(False)
        extent = text.get_window_extent(renderer)
        dx, dy = _offset((x, y), (extent.width, extent.height), frame, fixed, placed)
        placed.append(_box(x + dx, y + dy, extent.width, extent.height))
        text.set_position((dx, dy))
        _lead(axes, label, (dx, dy), extent.width, extent.height)


def _offset(
    point: tuple[float, float],
    size: tuple[float, float],
    frame: Box,
    fixed: Sequence[Box],
    placed: Sequence[Box],
) -> tuple[float, float]:
    """From the point to the middle of its label."""
    (x, y), (width, height) = point, size
    best, lowest = (0.0, 0.0), float("inf")
    for distance, step in product(_DISTANCES, range(_DIRECTIONS)):
        angle = 2 * pi * step / _DIRECTIONS
        dx = cos(angle) * (distance + width / 2)
        dy = sin(angle) * (distance + height / 2)
        box = _box(x + dx, y + dy, width, height)
        cost = (
            distance
            + 20 * _outside(box, frame)
            + 3 * sum(_overlap(box, other) for other in placed)
            + sum(_overlap(box, other) for other in fixed)
        )
        if cost < lowest:
            best, lowest = (dx, dy), cost
    return best


def _lead(axes: Axes, label: Label, offset: tuple[float, float], width: float, height: float) -> None:
    """A thin line from a point to a label that is far from it."""
    dx, dy = offset
    gap = np.hypot(max(abs(dx) - width / 2, 0), max(abs(dy) - height / 2, 0))
    if gap > _LEADER:
        edge: NDArray[np.float64] = np.array(
            [np.clip(0, dx - width / 2, dx + width / 2), np.clip(0, dy - height / 2, dy + height / 2)]
        )
        line = axes.annotate(
            "",
            (label.x, label.y),
            xytext=tuple(edge),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": colour("muted"), "linewidth": 0.6, "shrinkB": 5},
        )
        line.set_in_layout(False)


def _around(x: float, y: float, half: float) -> Box:
    return (x - half, y - half, x + half, y + half)


def _box(x: float, y: float, width: float, height: float) -> Box:
    return (x - width / 2 - _PAD, y - height / 2, x + width / 2 + _PAD, y + height / 2)


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    """By how many pixels a box leaves a frame."""
    over = (frame[0] - box[0], frame[1] - box[1], box[2] - frame[2], box[3] - frame[3])
    return sum(max(0.0, one) for one in over)
