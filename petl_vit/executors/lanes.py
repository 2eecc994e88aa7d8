"""Slices of rows that adapters' edits act on, and how the edits read and write them.

Shapes: B rows, A adapters, n images, N tokens, D width."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from petl_vit.edit_set import EditSet
from petl_vit.edits import (
    Alpha,
    AtSite,
)
from petl_vit.products import Params


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One adapter's edits, or those of several that stack, on a contiguous slice of the rows.

    Several lanes may share a slice.

    Attributes:
        alpha: [rows, 1, 1] or None for 1.
        adapters: How many are stacked, each for equally many rows that follow each other.
        params: What the rows run with instead of the others' parameters.
    """

    rows: slice
    edits: EditSet
    alpha: Alpha
    adapters: int = 1
    params: Params | None = None


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The rows of a lane, and how edits read them."""

    rows: slice
    adapters: int
    alpha: Alpha

    def of(self, x: Tensor, first: int = 0) -> Tensor:
        """The run's rows of x, which begins at row `first`; of stacked adapters [A, n N, D]."""
        found = x[self.rows.start - first : self.rows.stop - first]
        return found if self.adapters == 1 else found.view(self.adapters, -1, x.shape[-1])

    def alpha_of(self, x: Tensor) -> Alpha:
        """The factors of what `of` returned: [rows, 1, 1], or [A, n N, 1]."""
        if self.alpha is None or self.adapters == 1:
            return self.alpha
        each = self.alpha.view(self.adapters, -1, 1)
        return each.repeat_interleave(x.shape[1] // each.shape[1], dim=1)


_Placed = list[tuple[slice, list[tuple[AtSite, _Run]]]]
"""Slices of rows at a site, in order, and what edits each."""

_WIDENED = 2**20
"""Elements of bf16 outputs that are widened for their edits at once."""


def _parts(placed: _Placed, row: int) -> Iterator[_Placed]:
    """What is placed at a site, so many rows together as widened stay near a CPU's cores.

    Args:
        row: Elements of one row of the site's output.
    """
    part: _Placed = []
    for rows, edits in placed:
        if part and (rows.stop - part[0][0].start) * row > _WIDENED:
            yield part
            part = []
        part.append((rows, edits))
    yield part


def _apply_(edits: list[tuple[AtSite, _Run]], rows: slice, x: Tensor, y: Tensor, first: int) -> None:
    """Adds the edits of a slice of rows to a site's output y, which begins at row `first`."""
    if len(edits) == 1:
        edit, run = edits[0]
        y_rows = run.of(y, first)
        return edit.apply_(run.of(x), y_rows, run.alpha_of(y_rows))
    # All read the frozen output, so none may write before all have read.
    y_rows = y[rows.start - first : rows.stop - first]
    y_rows += sum(_delta(edit, run, x, y, first).reshape(y_rows.shape) for edit, run in edits)
    return None


def _delta(edit: AtSite, run: _Run, x: Tensor, y: Tensor, first: int) -> Tensor:
    """What an edit adds to the run's rows of a site's output y, which begins at row `first`."""
    y_rows = run.of(y, first)
    return edit.delta(run.of(x), y_rows, run.alpha_of(y_rows))
