"""ImageNet-C's weather. Shapes: b images [b, 3, H, W] in [0, 1], H x W pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.corruptions.constants import Strength
from training.data.corruptions.filters import drawn, landscape, moved, uniform, zoomed

Generators = Sequence[torch.Generator]

_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def snow(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Flakes that fall, over a paler image.

    In order: mean and deviation of the noise that flakes are made of, their size, how bright the noise is
    where there is a flake, reach and deviation of their fall, and what remains of the image's colours.
    """
    mean, deviation, size, least, radius, sigma, remains = strength
    noise = drawn(generators, lambda g: torch.randn(images.shape[-2:], generator=g))
    flakes = zoomed((mean + deviation * noise)[:, None], size * scale)
    flakes = flakes.masked_fill(flakes < least, 0).clamp(0, 1).mul(255).floor().div(255)
    angles = uniform(generators, -135, -45).tolist()
    falling = torch.stack(
        [moved(one, radius * scale, sigma * scale, a) for one, a in zip(flakes, angles, strict=True)]
    )
    grey = (images * _LUMA).sum(dim=1, keepdim=True)
    paler = remains * images + (1 - remains) * torch.maximum(images, grey * 1.5 + 0.5)
    return paler + falling + falling.flip(-2, -1)


def fog(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """A landscape of haze, scaled so that the brightest pixel remains: how dense, and how smooth."""
    density, decay = strength
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    haze = density * landscape(generators, images.shape[-2], images.shape[-1], decay)[:, None]
    return (images + haze) * brightest / (brightest + density)


def frost(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Ice in front of the image: what remains of the image, and how much ice there is.

    The original lays parts of six photographs over images, which are not ours to ship. This ice is made of
    noise, so it has the original's strengths and brightness, and not its pixels.
    """
    remains, share = strength
    return remains * images + share * _ice(generators, images.shape[-2], images.shape[-1])


_ICE = torch.tensor([0.86, 0.96, 1.0])[:, None, None]
"""Its colour, a little blue."""


def _ice(generators: Generators, height: int, width: int) -> Tensor:
    """[b, 3, H, W] in [0, 1]: needles along the ridges of landscapes, on a ground of uneven brightness."""
    ground = landscape(generators, height, width, 1.6)
    needles = torch.zeros_like(ground)
    for decay, weight in ((1.9, 1.0), (1.45, 0.7)):
        ridges = 1 - (2 * landscape(generators, height, width, decay) - 1).abs()
        needles = torch.maximum(needles, weight * ridges**6)
    return (0.12 + 0.45 * ground + 0.75 * needles).clamp(0, 1)[:, None] * _ICE
