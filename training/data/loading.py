"""Labelled images at the model's size, ready for the backbone batch by batch.

A set that fits in memory is resized once and kept as bytes; a larger one is decoded again for every
batch, so that its size is bounded by the disk alone. Both give the same batches.

Shapes: n images, b of a batch, S image size.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from petl_vit.image_input import Preprocess
from petl_vit.preprocess import normalise
from petl_vit.vit import FrozenViT
from training.data.augmentation import OF_PIXELS, Augmentation
from training.data.crops import cropped
from training.data.pixels import augment, load_pixels
from training.data.records import Dataset, Selection

KEPT_BYTES = 2 * 2**30
"""Sets of more pixels than this are not kept."""


class Resized:
    """A dataset as the backbone takes it.

    Args:
        spec: Size and normalisation.
        vit: Where batches go; its device and dtype.
        augmentation: What `batch` does to training images.
        kept_bytes: Most bytes of pixels to keep.
        advance: Called with the number of images that became ready.

    Raises:
        InvalidInput: A file cannot be decoded; the error names it. A set that is not kept says so
            when its batch comes.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: Preprocess,
        vit: FrozenViT,
        *,
        augmentation: Augmentation = "none",
        kept_bytes: int = KEPT_BYTES,
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.labels = dataset.labels
        self._dataset, self._spec, self._augmentation = dataset, spec, augmentation
        self._device, self._dtype = vit.device, vit.dtype
        self._places: Tensor | None = None
        self._kept: Tensor | None = None
        if 3 * spec.image_size**2 * len(dataset) <= kept_bytes:
            self._kept = load_pixels(dataset, spec, progress=lambda done: advance(1))

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, places: Tensor) -> "Resized":
        """Those of the images, in that order, over the same pixels."""
        part = copy.copy(self)
        part.labels = self.labels[places]
        part._places = places if self._places is None else self._places[places]
        return part

    @property
    def kept(self) -> bool:
        """Whether the pixels stay in memory."""
        return self._kept is not None

    @property
    def decodes(self) -> bool:
        """Whether an augmented batch is decoded when it is asked for."""
        return not self.kept or self._augmentation not in OF_PIXELS

    def pixels(self, indices: Tensor) -> Tensor:
        """uint8 [b, 3, S, S]."""
        indices = self._in_set(indices)
        if self._kept is not None:
            return self._kept[indices]
        some = Selection(images=self._dataset.images, indices=indices.tolist())
        chosen = replace(self._dataset, images=some, labels=self._dataset.labels[indices])
        with torch.inference_mode(False):  # the pool's threads could not write to an inference tensor
            return load_pixels(chosen, self._spec)

    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None, *, mirrored: bool = False
    ) -> Tensor:
        """[b, 3, S, S], normalised, on the backbone's device; augmented if a generator is given."""
        if generator is not None and self._augmentation not in OF_PIXELS:
            places, kind = self._in_set(indices).tolist(), self._augmentation
            with torch.inference_mode(False):
                changed = cropped(self._dataset.images, places, self._spec, kind, generator)
            return sent(changed, self._device).to(self._dtype)
        pixels = self.pixels(indices)
        if mirrored:
            pixels = pixels.flip(-1)
        if generator is not None:
            pixels = augment(pixels, self._augmentation, generator)
        return normalise(sent(pixels, self._device), self._spec).to(self._dtype)

    def _in_set(self, indices: Tensor) -> Tensor:
        return indices if self._places is None else self._places[indices]

    def batches(self, size: int = 64) -> list[Tensor]:
        """Indices of consecutive batches."""
        return list(torch.arange(len(self)).split(size))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; a GPU fetches it while the host goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
