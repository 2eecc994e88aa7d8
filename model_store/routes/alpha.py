"""Alphas: how much of an adapter's change counts, in all blocks alike or by block. Imports no torch.

    alpha := number [".." number] ["[" block ["-" block] "]"]

`0.6` counts in the whole model; `0.6[0-5]` in blocks 0 to 5 and nowhere else; `0.2..1` grows by equal steps
from 0.2 in the first block to 1 in the last, which is the depth scaling of LiNeS (arXiv 2410.17146).
"""

from dataclasses import dataclass, replace

from pydantic import JsonValue

from petl_vit.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ByBlock:
    """An alpha for each block: by equal steps from `first` to `last` over `blocks`, and 0 elsewhere.

    Attributes:
        first, last: The alphas of the first and of the last of the blocks.
        blocks: The first and the last of them, counted from 0; None for all.
        depth: How many blocks the backbone has; None before that is known.

    Raises:
        InvalidInput: The blocks are not a range, or a single one has two alphas.
    """

    first: float
    last: float
    blocks: tuple[int, int] | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.blocks is None:
            return
        first, last = self.blocks
        if first < 0:
            raise InvalidInput(f"there is no block {first}", field="blocks", remedy="blocks count from 0")
        if first > last:
            raise InvalidInput(
                f"no block lies in {_range(self.blocks)}, which ends before it begins",
                field="blocks",
                remedy=f"write {_range((last, first))}",
            )
        if first == last and self.first != self.last:
            raise InvalidInput(
                f"block {first} has one alpha, and {number(self.first)}..{number(self.last)} are two",
                field="alpha",
                remedy=f"write {number(self.last)}{_range(self.blocks)}, or give it more blocks",
            )

    def __str__(self) -> str:
        """As a route's text has it."""
        steps = "" if self.first == self.last else f"..{number(self.last)}"
        return f"{number(self.first)}{steps}{'' if self.blocks is None else _range(self.blocks)}"

    @property
    def values(self) -> tuple[float, ...]:
        """The alpha of every block, once the depth is known."""
        assert self.depth is not None, "the depth is known once the route is resolved"
        first, last = self.blocks or (0, self.depth - 1)
        steps = max(1, last - first)
        growing = ((block - first) / steps for block in range(first, last + 1))
        inside = (self.first * (1 - share) + self.last * share for share in growing)
        return (*[0.0] * first, *inside, *[0.0] * (self.depth - 1 - last))


Alpha = float | ByBlock


def by_block(first: float, last: float | None = None, blocks: tuple[int, int] | None = None) -> Alpha:
    """The alpha of a route's text; a number where no block is told from another.

    Raises:
        InvalidInput: As `ByBlock`.
    """
    last = first if last is None else last
    return first if blocks is None and first == last else ByBlock(first=first, last=last, blocks=blocks)


def over(alpha: Alpha, depth: int, *, of: str, backbone: str) -> Alpha:
    """An alpha in a backbone of so many blocks; a number where it is the same in all of them.

    Args:
        of, backbone: The adapter and the backbone, for the error.

    Raises:
        InvalidInput: A block lies beyond the last.
    """
    if not isinstance(alpha, ByBlock):
        return alpha
    if alpha.blocks is not None and alpha.blocks[1] >= depth:
        raise InvalidInput(
            f"{alpha}*{of} names block {alpha.blocks[1]}, and {backbone} has {depth} blocks",
            field="blocks",
            remedy=f"its blocks are {_range((0, depth - 1))}",
        )
    whole = alpha.blocks in (None, (0, depth - 1))
    if alpha.first == alpha.last and (whole or alpha.first == 0):
        return alpha.first
    return replace(alpha, blocks=None if whole else alpha.blocks, depth=depth)


def limits(alpha: Alpha) -> tuple[float, ...]:
    """Numbers between which all of an alpha lies, where it is not 0."""
    return (alpha.first, alpha.last) if isinstance(alpha, ByBlock) else (alpha,)


def times(alpha: Alpha, factor: float) -> Alpha:
    """An alpha times a number, in every block."""
    if not isinstance(alpha, ByBlock):
        return alpha * factor
    return replace(alpha, first=alpha.first * factor, last=alpha.last * factor)


def values(alpha: Alpha) -> float | tuple[float, ...]:
    """An alpha of a resolved route as it is computed: one number, or that of every block."""
    return alpha.values if isinstance(alpha, ByBlock) else alpha


def document(alpha: float | tuple[float, ...]) -> JsonValue:
    """What `values` returns, as JSON that is hashed has it."""
    return list(map(float, alpha)) if isinstance(alpha, tuple) else float(alpha)


def text(alpha: Alpha) -> str:
    """An alpha as a route's text has it."""
    return str(alpha) if isinstance(alpha, ByBlock) else number(alpha)


def in_words(alpha: Alpha) -> str:
    """An alpha in words."""
    if not isinstance(alpha, ByBlock):
        return f"alpha {number(alpha)}"
    first, last = number(alpha.first), number(alpha.last)
    if alpha.blocks is None:
        return f"alpha {first} in the first block to {last} in the last"
    begin, end = alpha.blocks
    if alpha.first != alpha.last:
        return f"alpha {first} in block {begin} to {last} in block {end}, 0 in the others"
    where = f"block {begin}" if begin == end else f"blocks {begin} to {end}"
    return f"alpha {first} in {where}, 0 in the others"


def weighed(alpha: Alpha, adapter: object) -> str:
    """A term's text: the adapter, behind its alpha where that is not 1."""
    return str(adapter) if alpha == 1 else f"{text(alpha)}*{adapter}"


def number(value: float) -> str:
    """A number as a route's text has it: exact, and without a useless fraction."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _range(blocks: tuple[int, int]) -> str:
    first, last = blocks
    return f"[{first}]" if first == last else f"[{first}-{last}]"
