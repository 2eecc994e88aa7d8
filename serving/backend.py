"""What computes: the backbone and its adapters' edits behind one small interface.

`TorchBackend` is eager PyTorch on a CPU or a GPU, in fp32 or bf16. Another back end is another class with
these three methods.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from petl_vit.batch import Batch, Row
from petl_vit.executors import Sliced
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT


class Backend(Protocol):
    """Runs rows. One thread calls it."""

    def add_size(self, size: int, vit: FrozenViT) -> None:
        """Makes it serve another image size, in pixels."""

    def warm(self, size: int) -> None:
        """Runs the frozen backbone once, so that the first request does not pay for it."""

    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        """The logits [C] of every row, on the CPU, in the rows' order.

        Args:
            images: Distinct ones of one size, each [3, S, S] float32, preprocessed.

        Raises:
            Overloaded: The rows have more adapters than there are slots.
            torch.OutOfMemoryError, MemoryError: They do not fit into memory; fewer may.
        """


class TorchBackend:
    """Eager PyTorch, where the backbone is and as precise as it is."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._batches: dict[int, Batch] = {}

    def add_size(self, size: int, vit: FrozenViT) -> None:
        if size not in self._batches:
            self._batches[size] = Batch(vit, slots=self._slots)

    def warm(self, size: int) -> None:
        vit = self._batches[size].vit
        images = torch.zeros(1, 3, size, size, device=vit.device, dtype=vit.dtype)
        with torch.inference_mode():
            vit.forward(images, Sliced(vit, []))

    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        batch = self._batches[images[0].shape[-1]]
        stacked = torch.stack(list(images)).to(device=batch.vit.device, dtype=batch.vit.dtype)
        return batch.logits(stacked, rows)
