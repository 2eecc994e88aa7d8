"""ImageNet-C's noises. Shapes: b images [b, 3, H, W] in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.corruptions.constants import Strength
from training.data.corruptions.filters import drawn

Generators = Sequence[torch.Generator]


def gaussian_noise(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Gaussian noise of every sample; its deviation."""
    (deviation,) = strength
    return images + deviation * drawn(generators, lambda g: torch.randn(images.shape[1:], generator=g))


def shot_noise(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Poisson noise, as of few photons; how many a white pixel counts."""
    (photons,) = strength
    counts = [torch.poisson(one * photons, g) for one, g in zip(images, generators, strict=True)]
    return torch.stack(counts) / photons


def impulse_noise(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Samples that are black or white; the share of both together."""
    (share,) = strength
    chance = drawn(generators, lambda g: torch.rand(images.shape[1:], generator=g))
    return images.masked_fill(chance < share, 1).masked_fill(chance < share / 2, 0)
