"""Lanes: the slices of rows that adapters' edits act on, and how the edits read and write them.

Shapes: B rows, A adapters, n images of each adapter, N tokens, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from petl_vit.edit_set import EditSet
from petl_vit.edits import AtSite, Input, LowRank
from petl_vit.per_row import Alpha
from petl_vit.products import Params


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """One adapter's edits, or those of several that stack, on a contiguous slice of the rows.

    Several lanes may share a slice.

    Attributes:
        alpha: [rows, 1, 1] or None for 1.
        adapters: How many are stacked, each for equally many rows that follow each other.
        params: Parameters that replace the frozen ones for these rows; None for the frozen ones.
    """

    rows: slice
    edits: EditSet
    alpha: Alpha
    adapters: int = 1
    params: Params | None = None

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

Turns = list[tuple[Input, Lane]]
"""Edits that turn what a linear takes, with their lanes."""


def taken_turns(site_edits: SiteEdits) -> Turns:
    """Takes out the edits that may turn a site's input: no other edit of the rows reads the frozen output."""
    turns: Turns = []
    kept: SiteEdits = []
    for rows, edits in site_edits:
        alone = all(isinstance(e, LowRank) or (isinstance(e, Input) and e.is_whole) for e, _ in edits)
        found = [(edit, lane) for edit, lane in edits if isinstance(edit, Input)] if alone else []
        rest = [(edit, lane) for edit, lane in edits if not (alone and isinstance(edit, Input))]
        turns += found
        kept += [(rows, rest)] if rest else []
    site_edits[:] = kept
    return turns


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


def apply_(edits: list[tuple[AtSite, Lane]], rows: slice, x: Tensor, y: Tensor, first: int) -> None:
    """Adds the edits of a slice of rows to a site's output y, which begins at row `first`."""
    if len(edits) == 1:
        edit, lane = edits[0]
        y_rows = lane.rows_of(y, first)
        edit.apply_(lane.rows_of(x), y_rows, lane.alpha_of(y_rows))
        return
    # All read the frozen output, so none may write before all have read.
    y_rows = y[rows.start - first : rows.stop - first]
    y_rows += sum(_delta(edit, lane, x, y, first).reshape(y_rows.shape) for edit, lane in edits)


def _delta(edit: AtSite, lane: Lane, x: Tensor, y: Tensor, first: int) -> Tensor:
    """What an edit adds to its lane's rows of a site's output y, which begins at row `first`."""
    y_rows = lane.rows_of(y, first)
    return edit.delta(lane.rows_of(x), y_rows, lane.alpha_of(y_rows))
