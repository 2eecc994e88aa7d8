"""Shifted copies of images: the same classes, harder to see. `training.data.shift` has the names.

Shapes: n images, b of them at a time, H x W pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.data import shift
from training.data.corruptions import blur, digital, graded, noise, weather
from training.data.corruptions.constants import Strength, constants

_CHUNK = 32  # floats take four times the memory of bytes, and several copies


def apply(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Shifted copies of uint8 [n, 3, H, W], the same for the same seed.

    Args:
        name: One of `shift.NAMES`.
        severity: From 1, hardly visible, to 5, hard for people as well.
        seed: Decides what is random. Of ImageNet-C's, image i is shifted as the first one of seed + i.

    Raises:
        InvalidInput: An unknown name or severity.
    """
    shift.check(name, severity)
    if name in shift.GRADED:
        return graded.apply(images, name, severity, seed)
    corrupt = _IMAGENET_C[name]
    strength, scale = constants(name, severity, min(images.shape[-2:]))
    shifted = torch.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        result = corrupt(part.cpu().float() / 255, strength, scale, generators)
        shifted[start : start + _CHUNK] = result.mul_(255).round_().clamp_(0, 255)
    return shifted


_Corruption = Callable[[Tensor, Strength, float, Sequence[torch.Generator]], Tensor]
_IMAGENET_C: dict[str, _Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "imagenet-c/contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
assert tuple(_IMAGENET_C) == shift.IMAGENET_C
