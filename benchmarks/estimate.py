"""A figure and how far its rounds lie apart: what is signal, and what is noise."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True, order=True)
class Estimate:
    """A figure of several rounds; estimates are ordered by their values.

    Attributes:
        value: The median of the rounds, where nothing else is said.
        spread: Half of the rounds' interquartile range; None of a single round.
    """

    value: float
    spread: float | None = field(default=None, compare=False)

    @classmethod
    def of(cls, rounds: Sequence[float]) -> "Estimate":
        """The median of some rounds."""
        return cls(value=float(np.median(rounds)), spread=half_range(rounds))

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.spread is None else f" ± {self.spread:.3f}")


def half_range(rounds: Sequence[float]) -> float | None:
    """Half of the interquartile range; None of a single round."""
    if len(rounds) < 2:
        return None
    low, high = np.percentile(rounds, [25, 75])
    return float(high - low) / 2
