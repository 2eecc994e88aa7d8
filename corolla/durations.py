"""Lengths of time on the command line: `90`, `90s`, `15m`, `1h`, `2d`."""

import math
from typing import Any

import click

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """Seconds, as a float; a number without a unit is seconds.

    Args:
        least_s: The shortest that is allowed.
    """

    name = "time"

    def __init__(self, least_s: float) -> None:
        self._least = least_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds of a text; a number is seconds."""
        text = str(value).strip()
        number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1.0)
        try:
            seconds = float(number) * unit
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a time; write 90s, 15m, 1h or 2d", param, ctx)
        if seconds < self._least:
            self.fail(f"{value} is shorter than {spelt(self._least)}", param, ctx)
        return seconds


def spelt(seconds: float) -> str:
    """As it may be typed: `90s`, `1h`."""
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"
