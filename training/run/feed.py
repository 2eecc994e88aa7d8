"""The batches of an epoch: which images, in which order, and the random numbers of what is done with them.

Shapes: n images, b of a step, S image size.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.data.loading import sent
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
    """The batches of one seed's epoch, in its order; `noise` seeds what is random in the forward."""

    def __init__(self, images: Images, recipe: Recipe, epoch: int, device: torch.device) -> None:
        self._images, self._recipe, self._device = images, recipe, device
        seed = zlib.crc32(f"{recipe.seed}/{epoch}".encode())
        self._generator = torch.Generator().manual_seed(seed)
        self.noise = int(torch.randint(2**31, (), generator=self._generator))

    def __iter__(self) -> Iterator[Batch]:
        images, recipe = self._images, self._recipe
        augment = self._generator if recipe.augment != "none" else None
        order = epoch_order(images.labels, recipe.balance, self._generator)
        for indices in order.split(recipe.batch_size):
            inputs = images.batch(indices, augment)
            yield Batch(inputs=inputs, labels=sent(images.labels[indices], self._device))
