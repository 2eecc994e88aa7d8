"""TIES: trim, elect signs, merge what agrees (arXiv 2306.01708, algorithm 1).

Shapes: N members.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.merges.changes import Changes


def threshold(member: Changes, density: float) -> float:
    """The magnitude from which on a member's change is among the given share of the largest.

    The share is of all entries of the parameters that the member changes.
    """
    if density == 1:
        return 0.0
    sizes = [change.abs().flatten() for place in member.places for change in member.at(place).values()]
    if not sizes:
        return 0.0
    magnitudes = torch.cat(sizes)
    kept = max(1, round(density * len(magnitudes)))
    return float(magnitudes.kthvalue(len(magnitudes) - kept + 1).values)


def ties(changes: Sequence[Tensor], thresholds: Sequence[float]) -> Tensor:
    """The mean of the trimmed changes whose sign is that of their sum, entry by entry."""
    trimmed = torch.stack(
        [change * (change.abs() >= least) for change, least in zip(changes, thresholds, strict=True)]
    )
    elected = trimmed.sum(dim=0).sign()
    agreeing = (trimmed.sign() == elected) & (trimmed != 0)
    return (trimmed * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)
