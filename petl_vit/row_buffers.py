"""Buffers for the edits of each row, used again from one forward to the next.

Making an edit set of views costs more than filling it, and fresh memory costs page faults on a CPU (a tenth
of a small forward). So both are lent to a forward and then reused.

Shapes: B rows, L elements of a form's flat vector.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from petl_vit.edit_set import EditSet

_Key = tuple[int, int]  # form and rows


@dataclass(frozen=True, eq=False, kw_only=True)
class RowBuffer:
    """Flat vectors [B, L] to write, and the edit set of views that reads them."""

    flats: Tensor
    edits: EditSet

    @property
    def nbytes(self) -> int:
        return self.flats.nbytes


class RowBuffers:
    """Lends buffers to one thread's forwards, the idle ones bounded by bytes.

    Args:
        device: Where forwards run.
        max_bytes: The most that idle buffers may take; the least recently used are freed.
    """

    def __init__(self, device: torch.device, *, max_bytes: int = 32 * 2**20) -> None:
        self._device = device
        self._max_bytes = max_bytes
        self._idle: OrderedDict[_Key, list[RowBuffer]] = OrderedDict()
        self._lent: list[tuple[_Key, RowBuffer]] = []
        self.idle_bytes = 0

    @property
    def nbytes(self) -> int:
        """The bytes of all buffers, lent and idle."""
        return self.idle_bytes + sum(buffer.nbytes for _, buffer in self._lent)

    def lend(self, form: EditSet, rows: int) -> RowBuffer:
        """A buffer for rows of this form, with arbitrary contents, until `take_back`."""
        key = (form.form, rows)
        idle = self._idle.get(key)
        if idle:
            buffer = idle.pop()
            self.idle_bytes -= buffer.nbytes
        else:
            flats = torch.empty(rows, len(form.flat), dtype=form.flat.dtype, device=self._device)
            buffer = RowBuffer(flats=flats, edits=form.with_rows(flats))
        self._lent.append((key, buffer))
        return buffer

    def take_back(self) -> None:
        """Makes all lent buffers free again, at the end of the forward that they were lent to."""
        for key, buffer in self._lent:
            self._idle.setdefault(key, []).append(buffer)
            self._idle.move_to_end(key)
            self.idle_bytes += buffer.nbytes
        self._lent.clear()
        while self.idle_bytes > self._max_bytes:
            _, buffers = self._idle.popitem(last=False)
            self.idle_bytes -= sum(buffer.nbytes for buffer in buffers)
