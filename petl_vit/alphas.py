"""Alphas of one adapter: one for all blocks, or one for each.

An edit that is in no block counts with the first block where it comes before it (the patch embedding), and
with the last where it comes after it (the final norm, attention pooling, the head).
"""

from collections.abc import Sequence

from petl_vit.errors import InvalidInput

Alphas = tuple[float, ...]
"""One alpha for all blocks, or one for each, which then are not all equal."""


def alphas_of(alpha: float | Sequence[float]) -> Alphas:
    """The alphas that a number or a number for each block means."""
    if not isinstance(alpha, Sequence):
        return (alpha,)
    return tuple(alpha[:1]) if len(set(alpha)) == 1 else tuple(alpha)


def at(alphas: Alphas, block: float) -> float:
    """The alpha of a block; of the last where `block` lies beyond it."""
    return alphas[int(min(block, len(alphas) - 1))]


def added(first: Alphas, other: Alphas) -> Alphas:
    """The sum of two, block by block."""
    depth = max(len(first), len(other))
    return alphas_of([at(first, block) + at(other, block) for block in range(depth)])


def not_by_block(what: str) -> InvalidInput:
    """The error of an adapter that has one alpha only."""
    return InvalidInput(
        f"the prompts or queries of {what} pass through all blocks, so its alpha cannot differ by block",
        field="alpha",
        remedy="weigh it as a whole, as in 0.6*NAME",
    )
