"""ImageNet-C's blurs. Shapes: b images [b, 3, H, W] in [0, 1], H x W pixels."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.corruptions.constants import Strength
from training.data.corruptions.filters import drawn, moved, padded, smoothed, uniform, zoomed

Generators = Sequence[torch.Generator]

_SHUFFLES = 64


def defocus_blur(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """A disk as of a lens out of focus; its radius, and the deviation that softens its rim."""
    radius, rim = strength
    kernel = _disk(radius * scale, rim * scale)
    around = padded(images, kernel.shape[-1] // 2, "reflect").flatten(0, 1)
    # Planes as channels of one image: the CPU's kernels take a tenth of the time.
    kernels = kernel.expand(len(around), 1, *kernel.shape).contiguous()
    return F.conv2d(around[None], kernels, groups=len(around)).view_as(images)


def glass_blur(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Pixels that take the place of their neighbours, between two Gaussians: deviation, reach, rounds.

    The published code means to swap two pixels, and copies one over the other; so does this. Which pixels is
    one of `_SHUFFLES` choices, since each takes as long as fifty images.
    """
    sigma, reach, rounds = strength[0] * scale, max(1, round(strength[1] * scale)), int(strength[2])
    height, width = images.shape[-2:]
    softened = smoothed(images, sigma, border="edge").mul(255).floor().div(255).flatten(2)
    chosen = drawn(generators, lambda g: torch.randint(_SHUFFLES, (), generator=g)).tolist()
    sources = torch.stack([_neighbours(height, width, reach, rounds, shuffle) for shuffle in chosen])
    shuffled = softened.gather(2, sources[:, None].expand(-1, softened.shape[1], -1))
    return smoothed(shuffled.view_as(images), sigma, border="edge")


def motion_blur(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """A smear in one direction, up to 45 degrees from level: its reach and deviation."""
    radius, sigma = strength[0] * scale, strength[1] * scale
    angles = uniform(generators, -45, 45).tolist()
    smeared = [moved(one, radius, sigma, angle) for one, angle in zip(images, angles, strict=True)]
    return torch.stack(smeared)


def zoom_blur(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """The mean of the image and of enlarged ones: the bound of the factors, and their step."""
    end, step = strength
    factors = np.arange(1, end, step).tolist()
    total = images.clone()
    for factor in factors:
        total += zoomed(images, factor)
    return total / (len(factors) + 1)


@lru_cache(maxsize=32)
def _disk(radius: float, rim: float) -> Tensor:
    """[k, k], of sum 1."""
    reach, taps = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).float()
    offsets = torch.arange(-taps, taps + 1, dtype=torch.float32)
    soft = torch.exp(-(offsets**2) / (2 * rim**2))
    soft = soft / soft.sum()
    around = padded(disk / disk.sum(), taps, "reflect")
    return F.conv2d(around[None, None], torch.outer(soft, soft)[None, None])[0, 0]


@lru_cache(maxsize=_SHUFFLES)
def _neighbours(height: int, width: int, reach: int, rounds: int, shuffle: int) -> Tensor:
    """[H W]: the pixel that each pixel takes, where one takes after the other, from the last to the first."""
    sources = list(range(height * width))
    rows, columns = (torch.tensor(range(n - reach, reach, -1), dtype=torch.long) for n in (height, width))
    places = (rows[:, None] * width + columns).flatten()
    order, generator = places.tolist(), torch.Generator().manual_seed(shuffle)
    for _ in range(rounds):
        moves = torch.randint(-reach, reach, (2, len(order)), generator=generator)
        for place, source in zip(order, (places + moves[0] * width + moves[1]).tolist(), strict=True):
            sources[place] = sources[source]
    return torch.tensor(sources)
