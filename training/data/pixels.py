"""All images of a dataset at the model's size, and random changes to them.

Shapes: n images, H, W an image's own size, S the model's input size."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from petl_vit.cpus import usable_cpus
from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from training.data.augmentation import OF_PIXELS, Augmentation
from training.data.records import Dataset

_MAX_WORKERS = 8

_CROP_AREA = (0.5, 1.0)

_CROP_ASPECT = (3 / 4, 4 / 3)


def load_pixels(
    dataset: Dataset, preprocess: Preprocess, *, progress: Callable[[int], None] | None = None
) -> Tensor:
    """All images at the model's size, uint8 [n,3,S,S], decoded in a pool of threads.

    Args:
        progress: Called in the caller's thread with the number of images done so far.

    Raises:
        InvalidInput: A file cannot be decoded; the error names it.
    """
    size = preprocess.image_size
    result = torch.empty(len(dataset), 3, size, size, dtype=torch.uint8)

    def fill(index: int) -> None:
        result[index] = dataset.images.sized(index, preprocess)

    with ThreadPoolExecutor(min(_MAX_WORKERS, usable_cpus().count)) as pool:
        jobs = [pool.submit(fill, index) for index in range(len(dataset))]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                if progress is not None:
                    progress(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return result


def augment(images: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Randomly changed copies of uint8 [b,3,S,S], decided by the generator (of the CPU) alone.

    "flip" mirrors half of them; "crop-flip" also enlarges a random part (half the area or more).

    Raises:
        InvalidInput: Another kind.
    """
    if kind not in OF_PIXELS:
        raise InvalidInput(
            f"the augmentation {kind!r} does not change pixels of the model's size",
            field="augment",
            remedy=f"choose one of {', '.join(OF_PIXELS)}",
        )
    if kind == "none" or len(images) == 0:
        return images
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    if kind == "flip":
        return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
    return _cropped(images, mirrored, generator)


def _cropped(images: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    area, aspect, x, y = torch.rand(4, len(images), generator=generator)
    area = _CROP_AREA[0] + (_CROP_AREA[1] - _CROP_AREA[0]) * area
    low, high = (float(np.log(bound)) for bound in _CROP_ASPECT)
    aspect = torch.exp(low + (high - low) * aspect)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    # In the coordinates of affine_grid the image spans [-1, 1] and a crop is a scale and a shift.
    boxes = torch.zeros(len(images), 2, 3)
    boxes[:, 0, 0] = torch.where(mirrored, -width, width)
    boxes[:, 0, 2] = (2 * x - 1) * (1 - width)
    boxes[:, 1, 1] = height
    boxes[:, 1, 2] = (2 * y - 1) * (1 - height)
    grid = F.affine_grid(boxes.to(images.device), list(images.shape), align_corners=False)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)
