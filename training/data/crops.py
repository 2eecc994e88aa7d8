"""Random changes that start from the whole image: timm's crops, its RandAugment and its erasing.

timm draws from the generators of `random` and `numpy`, which all threads share. So one thread draws at a
time, after a seed of its own, and both are then as they were.

Shapes: b images of a batch, S the model's input size.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from petl_vit.cpus import usable_cpus
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import normalise
from training.data.augmentation import Augmentation
from training.data.records import Images

_MAX_WORKERS = 8
_AT_ONCE = 16
"""So many whole images are in memory at a time."""
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
_ERASED = 0.25
_DRAWING = Lock()

_Change = Callable[[Any], Any]


def cropped(
    images: Images,
    indices: Sequence[int],
    spec: Preprocess,
    kind: Augmentation,
    generator: torch.Generator,
) -> Tensor:
    """Images at the model's size and normalised, float32 [b,3,S,S], changed as the generator says.

    All are random parts of the image, 8 to 100 % of its area, mirrored in half of the cases. Besides,
    `resized-crop-flips` turns half of them upside down, and `imagenet` applies two operations of RandAugment
    and puts noise into a part of a quarter of them, as timm trains on ImageNet.

    Raises:
        InvalidInput: A file cannot be decoded; the error names it.
    """
    seeds = torch.randint(2**31, (3,), generator=generator).tolist()
    parts = _parts(images, indices, spec, seeds[0])
    pixels = _flipped(torch.stack([_to_tensor(part) for part in parts]), -1, generator)
    if kind == "resized-crop-flips":
        pixels = _flipped(pixels, -2, generator)
    if kind != "imagenet":
        return normalise(pixels, spec)
    with _drawing(seeds[1]):
        change = _rand_augment(spec)
        changed = [_to_tensor(change(_to_pillow(image))) for image in pixels]
    return _erased(normalise(torch.stack(changed), spec), seeds[2], generator)


def _parts(images: Images, indices: Sequence[int], spec: Preprocess, seed: int) -> list[Image.Image]:
    """A random part of each image, at the model's size."""
    from timm.data.transforms import RandomResizedCropAndInterpolation

    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

    def part(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
        top, left, height, width = box
        size = (spec.image_size, spec.image_size)
        return image.crop((left, top, left + width, top + height)).resize(size, filters[spec.interpolation])

    found: list[Image.Image] = []
    seeds = random.Random(seed)
    with ThreadPoolExecutor(min(_MAX_WORKERS, usable_cpus().count)) as pool:
        for start in range(0, len(indices), _AT_ONCE):
            some = indices[start : start + _AT_ONCE]
            whole = list(pool.map(lambda index: _to_pillow(images[index]), some))
            with _drawing(seeds.getrandbits(32)):
                draw: Any = RandomResizedCropAndInterpolation.get_params
                boxes = [draw(image, _AREA, _ASPECT) for image in whole]
            found += pool.map(part, whole, boxes)
    return found


def _flipped(pixels: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Half of them flipped, at random."""
    chosen = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], pixels.flip(dim), pixels)


def _rand_augment(spec: Preprocess) -> _Change:
    """timm's RandAugment of Pillow images, which fills with the mean colour of the normalisation."""
    from timm.data.transforms_factory import transforms_imagenet_train

    _, change, _ = transforms_imagenet_train(
        spec.image_size,
        auto_augment=_RAND_AUGMENT,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        separate=True,
    )
    return change  # type: ignore[no-any-return]


def _erased(images: Tensor, seed: int, generator: torch.Generator) -> Tensor:
    """Normal noise in a rectangle of a quarter of the images; timm chooses which and where."""
    from timm.data.random_erasing import RandomErasing

    erasing: Any = RandomErasing
    erase = erasing(_ERASED, mode="const", device="cpu")
    with _drawing(seed):
        kept = torch.stack([erase(torch.ones_like(image)) for image in images]).bool()
    return torch.where(kept, images, torch.randn(images.shape, generator=generator))


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Draws from `random` and `numpy` after a seed, without a trace."""
    with _DRAWING:
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
