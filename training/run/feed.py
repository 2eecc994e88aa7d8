"""The batches of an epoch: which images, in which order, and the random numbers of what is done with them.

Shapes: n images, b of a step, S image size.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.data.loading import Resized, sent
from training.run.ahead import ahead
from training.run.order import epoch_order
from training.run.recipe import Recipe


class Images(Protocol):
    """Labelled images, ready for the backbone."""

    labels: Tensor

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
        """[b, 3, S, S], normalised, on the backbone's device; augmented if a generator is given."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """On the backbone's device: inputs [b, 3, S, S], labels [b]."""

    inputs: Tensor
    labels: Tensor

    def part(self, first: int, stop: int) -> "Batch":
        """Some of its rows."""
        return Batch(inputs=self.inputs[first:stop], labels=self.labels[first:stop])


class Feed:
    """The batches of one seed's epoch, in its order; `noise` seeds what is random in the forward.

    Images that are decoded for each batch are so in a thread that is ahead of the steps: the same batches, as
    their random numbers are drawn in order.

    Args:
        waited: Called with the seconds for which a step waited for such a batch.
    """

    def __init__(
        self,
        images: Images,
        recipe: Recipe,
        epoch: int,
        device: torch.device,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._images, self._recipe, self._device, self._waited = images, recipe, device, waited
        seed = zlib.crc32(f"{recipe.seed}/{epoch}".encode())
        self._generator = torch.Generator().manual_seed(seed)
        self.noise = int(torch.randint(2**31, (), generator=self._generator))

    def __iter__(self) -> Iterator[Batch]:
        order = epoch_order(self._images.labels, self._recipe.balance, self._generator)
        places = order.split(self._recipe.batch_size)
        if isinstance(self._images, Resized) and self._images.decodes:
            return ahead(self._read, places, self._waited)
        return map(self._read, places)

    def _read(self, indices: Tensor) -> Batch:
        augment = self._generator if self._recipe.augment != "none" else None
        inputs = self._images.batch(indices, augment)
        return Batch(inputs=inputs, labels=sent(self._images.labels[indices], self._device))
