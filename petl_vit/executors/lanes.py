"""Lanes: the slices of rows that adapters' edits act on, and how the edits read and write them.

Shapes: B rows, A adapters, n images of each adapter, N tokens, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from petl_vit.edit_set import EditSet
from petl_vit.edits import Affine, AtSite, Input
from petl_vit.per_row import Alpha
from petl_vit.products import Params


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """One adapter's edits, or those of several that stack, on a contiguous slice of the rows.

    Several lanes may share a slice.

    Attributes:
        alpha: [rows, 1, 1] or None for 1; in all blocks but where `by_block` says otherwise.
        by_block: That of each block, None where it is 0 for every row; empty where all blocks have `alpha`.
        adapters: How many are stacked, each for equally many rows that follow each other.
        params: Parameters that replace the frozen ones for these rows; None for the frozen ones.
    """

    rows: slice
    edits: EditSet
    alpha: Alpha = None
    adapters: int = 1
    params: Params | None = None
    by_block: tuple[Tensor | None, ...] = ()

    def in_block(self, block: float) -> "Lane | None":
        """The lane with its alphas in a block (of the last, beyond it); None where no row has its edits."""
        return self._in_blocks[int(min(block, len(self.by_block) - 1))] if self.by_block else self

    @cached_property
    def _in_blocks(self) -> "list[Lane | None]":
        return [None if alpha is None else replace(self, alpha=alpha, by_block=()) for alpha in self.by_block]

    @property
    def span(self) -> tuple[int, int]:
        """The first of its rows, and the first after them."""
        return self.rows.start, self.rows.stop

    def rows_of(self, x: Tensor, first: int = 0) -> Tensor:
        """The lane's rows of x, which begins at row `first`; of stacked adapters [A, n N, D]."""
        rows = x[self.rows.start - first : self.rows.stop - first]
        return rows if self.adapters == 1 else rows.view(self.adapters, -1, x.shape[-1])

    def alpha_of(self, x: Tensor) -> Alpha:
        """The alphas of what `rows_of` returned: [rows, 1, 1], or [A, n N, 1]."""
        if self.alpha is None or self.adapters == 1:
            return self.alpha
        each = self.alpha.view(self.adapters, -1, 1)
        return each.repeat_interleave(x.shape[1] // each.shape[1], dim=1)


SiteEdits = list[tuple[slice, list[tuple[AtSite, Lane]]]]
"""Slices of rows at one site, in order, and the edits of each with their lanes."""

_WIDENED = 2**20
"""Elements of bf16 outputs that are widened for their edits at once."""


def chunks(edits: SiteEdits, row: int) -> Iterator[SiteEdits]:
    """A site's edits in runs of neighbouring rows whose widened outputs stay in a CPU's caches.

    Args:
        row: Elements of one row of the site's output.
    """
    chunk: SiteEdits = []
    for rows, of_rows in edits:
        if chunk and (rows.stop - chunk[0][0].start) * row > _WIDENED:
            yield chunk
            chunk = []
        chunk.append((rows, of_rows))
    yield chunk


def scales_of_input(edits: SiteEdits) -> tuple[list[tuple[Input, Lane]], SiteEdits]:
    """A linear's edits that can be done to its input, as they are alone on their rows; and the rest."""
    scales, rest = list[tuple[Input, Lane]](), SiteEdits()
    for rows, of_rows in edits:
        edit, lane = of_rows[0]
        if len(of_rows) == 1 and isinstance(edit, Input) and edit.scales:
            scales.append((edit, lane))
        else:
            rest.append((rows, of_rows))
    return scales, rest


def apply_(edits: list[tuple[AtSite, Lane]], rows: slice, x: Tensor, y: Tensor, first: int) -> None:
    """Adds the edits of a slice of rows to a site's output y, which begins at row `first`."""
    reading = [pair for pair in edits if _reads_output(pair[0])]
    if len(reading) <= 1:
        for edit, lane in [*reading, *(pair for pair in edits if not _reads_output(pair[0]))]:
            y_rows = lane.rows_of(y, first)
            edit.apply_(lane.rows_of(x), y_rows, lane.alpha_of(y_rows))
        return
    # All read the frozen output, so none may write before all have read.
    y_rows = y[rows.start - first : rows.stop - first]
    y_rows += sum(_delta(edit, lane, x, y, first).reshape(y_rows.shape) for edit, lane in edits)


def _reads_output(edit: AtSite) -> bool:
    """Whether an edit reads the site's output; all others read its input alone."""
    return isinstance(edit, Affine) and edit.scale is not None


def _delta(edit: AtSite, lane: Lane, x: Tensor, y: Tensor, first: int) -> Tensor:
    """What an edit adds to its lane's rows of a site's output y, which begins at row `first`."""
    y_rows = lane.rows_of(y, first)
    return edit.delta(lane.rows_of(x), y_rows, lane.alpha_of(y_rows))
