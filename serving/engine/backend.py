"""The back end: computes the backbone and its adapters' edits, behind one small interface.

`TorchBackend` is eager PyTorch on a CPU or a GPU, in fp32 or bf16. Another back end is another class with
these two methods.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from petl_vit.batch import Batch, Row
from petl_vit.executors.sliced import Sliced
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT

VitOf = Callable[[int], FrozenViT]
"""The backbone at an image size, in pixels; a back end asks once for each size."""


class Backend(Protocol):
    """Runs rows. One thread calls it."""

    def warm(self, size: int) -> None:
        """Runs the frozen backbone once at an image size, so that no request pays for the first time."""

    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        """The logits [C] of every row, on the CPU, in the rows' order.

        Args:
            images: Distinct ones of one size, each [3, S, S] float32, preprocessed.

        Raises:
            Overloaded: The rows have more adapters than there are slots.
            torch.OutOfMemoryError, MemoryError: They do not fit into memory; fewer may.
        """


class TorchBackend:
    """Eager PyTorch, where the backbone is; rows of adapters that need it in float32 run on that."""

    def __init__(self, vit_of: VitOf, slots: Slots) -> None:
        self._vit_of, self._slots = vit_of, slots
        self._batches: dict[int, Batch] = {}
        self._exact: dict[int, Batch] = {}

    def warm(self, size: int) -> None:
        vit = self._batch(size).vit
        images = torch.zeros(1, 3, size, size, device=vit.device, dtype=vit.dtype)
        with torch.inference_mode():
            vit.forward(images, Sliced(vit, []))

    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        batch = self._batch(images[0].shape[-1])
        stacked = torch.stack(list(images)).to(device=batch.vit.device, dtype=batch.vit.dtype)
        exact = [i for i, row in enumerate(rows) if row.model.exact_on is not None]
        if not exact:
            return batch.logits(stacked, rows)
        fast = [i for i, row in enumerate(rows) if row.model.exact_on is None]
        logits: dict[int, Tensor] = {}
        for runner, indices in ((self._on_exact(rows[exact[0]]), exact), (batch, fast)):
            if indices:
                logits |= zip(indices, runner.logits(stacked, [rows[i] for i in indices]), strict=True)
        return [logits[i] for i in range(len(rows))]

    def _batch(self, size: int) -> Batch:
        if size not in self._batches:
            self._batches[size] = Batch(self._vit_of(size), slots=self._slots)
        return self._batches[size]

    def _on_exact(self, row: Row) -> Batch:
        """Runs rows on the float32 backbone that a row names; kept for the next ones."""
        vit = row.model.exact_on
        assert vit is not None, "the row runs on the common backbone"
        batch = self._exact.get(vit.arch.image_size)
        if batch is None or batch.vit is not vit:
            batch = self._exact[vit.arch.image_size] = Batch(vit, slots=self._slots)
        return batch
