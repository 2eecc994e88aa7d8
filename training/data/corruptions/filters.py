"""What several corruptions are made of: smoothing, enlarging and random landscapes.

Shapes: b images, H x W pixels, n of a side, m a power of two.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Draw = Callable[[torch.Generator], Tensor]
Border = Literal["edge", "reflect", "symmetric"]
"""What lies beyond a border, as `numpy.pad` names it: the last pixel; the others without it, or with it."""


def drawn(generators: Sequence[torch.Generator], draw: Draw) -> Tensor:
    """What each image's generator draws, stacked."""
    return torch.stack([draw(generator) for generator in generators])


def uniform(generators: Sequence[torch.Generator], low: float, high: float, *shape: int) -> Tensor:
    """[b, *shape] between two bounds."""
    return low + (high - low) * drawn(generators, lambda g: torch.rand(shape, generator=g))


def beyond(n: int, reach: int, border: Border) -> Tensor:
    """Which pixel of a side stands at each place from -reach to n + reach - 1."""
    return torch.from_numpy(np.pad(np.arange(n), reach, mode=border))


def padded(images: Tensor, reach: int, border: Border) -> Tensor:
    """[b, 3, H + 2 reach, W + 2 reach], of images of any size."""
    height, width = images.shape[-2:]
    return images[..., beyond(height, reach, border), :][..., beyond(width, reach, border)]


@lru_cache(maxsize=64)
def _smoothing(n: int, sigma: float, truncate: float, border: Border) -> Tensor:
    """[n, n]: a Gaussian along a side, with its border, as one product."""
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return torch.eye(n)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    columns = beyond(n, reach, border).unfold(0, 2 * reach + 1, 1)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    return matrix.scatter_add_(1, columns, (weights / weights.sum()).expand(n, -1)).float()


def smoothed(images: Tensor, sigma: float, *, border: Border, truncate: float = 4.0) -> Tensor:
    """A Gaussian over the last two axes, cut off at `truncate` deviations; a sigma of 0 changes nothing."""
    if sigma == 0:
        return images
    height, width = images.shape[-2:]
    rows, columns = (_smoothing(n, sigma, truncate, border) for n in (height, width))
    return rows @ images @ columns.T


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of [b, c, H, W], enlarged to the same size; a factor below 1 counts as 1."""
    height, width = images.shape[-2:]
    if factor <= 1:
        return images
    h, w = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - h) // 2, (width - w) // 2
    size = [round(h * factor), round(w * factor)]
    large = F.interpolate(
        images[..., top : top + h, left : left + w], size=size, mode="bilinear", align_corners=True
    )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[..., top : top + height, left : left + width]


def moved(image: Tensor, radius: float, sigma: float, degrees: float) -> Tensor:
    """[c, H, W] smeared in one direction, as ImageMagick's motion blur does."""
    width = 2 * math.ceil(radius) + 1
    weights = torch.exp(-(torch.arange(width, dtype=torch.float64) ** 2) / (2 * sigma**2))
    down, right = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    offsets = [(math.ceil(i * down - 0.5), math.ceil(i * right - 0.5)) for i in range(width)]
    height, length = image.shape[-2:]
    around = F.pad(image[None], [width] * 4, mode="replicate")[0]
    result = torch.zeros_like(image)
    for weight, (dy, dx) in zip((weights / weights.sum()).tolist(), offsets, strict=True):
        top, left = width + dy, width + dx
        result.add_(around[..., top : top + height, left : left + length], alpha=weight)
    return result


def landscape(generators: Sequence[torch.Generator], height: int, width: int, decay: float) -> Tensor:
    """[b, H, W] in [0, 1]: heights by the diamond-square algorithm; smoother for a larger `decay`."""
    side = 2 ** max(1, math.ceil(math.log2(max(height, width))))
    chance = uniform(generators, -1, 1, side * side - 1)
    heights = torch.zeros(len(generators), side, side)
    step, amplitude, used = side, 100.0, 0

    def settled(sums: Tensor) -> Tensor:
        nonlocal used
        count = sums[0].numel()
        noise = chance[:, used : used + count].view_as(sums)
        used += count
        return sums / 4 + amplitude**2 * noise

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        rows = corners + corners.roll(-1, 1)
        heights[:, half::step, half::step] = settled(rows + rows.roll(-1, 2))
        centres = heights[:, half::step, half::step]
        heights[:, ::step, half::step] = settled(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        heights[:, half::step, ::step] = settled(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, amplitude = half, amplitude / decay
    heights -= heights.amin(dim=(1, 2), keepdim=True)
    heights /= heights.amax(dim=(1, 2), keepdim=True)
    return heights[:, :height, :width]
