"""Four simple graded shifts: noise, blur, rotation, contrast.

Simple on purpose: a first check that monitoring sees a shift grow, not a benchmark of robustness.
Knows pixels only. Each corruption takes float images [b,3,H,W] in 0..255, a strength, and the
generator that decides what is random; `apply` brings its result back to 0..255.

Shapes: n images, b of them at a time, H x W pixels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import shift

_CHUNK = 256


def apply(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Corrupted copies of uint8 [n,3,H,W], the same for the same seed.

    Args:
        name: One of `shift.GRADED`.
        severity: From 1 to 5.
    """
    corrupt, strengths = _SHIFTS[name]
    generator = torch.Generator().manual_seed(seed)
    shifted = torch.empty_like(images)
    if len(images) == 0:
        return shifted
    # Floats take four times the memory, so only some images are floats at a time.
    for source, target in zip(torch.split(images, _CHUNK), torch.split(shifted, _CHUNK), strict=True):
        target.copy_(corrupt(source.float(), strengths[severity - 1], generator).round_().clamp_(0, 255))
    return shifted


def _noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise on every sample; `deviation` as a share of the full range."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return images + 255 * deviation * noise


def _blur(images: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    """Gaussian blur; `sigma` as a share of the shorter side."""
    from torchvision.transforms.v2 import functional as transforms  # brings torch's compiler along

    shorter = min(images.shape[-2:])
    # The kernel is padded by reflection, which needs it to be shorter than the image.
    radius = min(math.ceil(3 * sigma * shorter), shorter - 1)
    if radius == 0:
        return images
    blurred: Tensor = transforms.gaussian_blur(images, [2 * radius + 1] * 2, [sigma * shorter] * 2)
    return blurred


def _rotation(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotation about the centre, each image to the left or to the right; corners take its edge colour."""
    b, _, height, width = images.shape
    signs = torch.randint(0, 2, (b,), generator=generator) * 2.0 - 1
    cos = torch.full((b,), math.cos(math.radians(degrees)))
    sin = signs * math.sin(math.radians(degrees))
    nothing = torch.zeros(b)
    # affine_grid's coordinates span [-1, 1] on both axes, so pixels that are not square need the ratio.
    rows = [
        torch.stack([cos, -sin * height / width, nothing]),
        torch.stack([sin * width / height, cos, nothing]),
    ]
    grid = F.affine_grid(torch.stack(rows).permute(2, 0, 1).to(images.device), list(images.shape), False)
    edge = _edge_colour(images)
    return F.grid_sample(images - edge, grid, padding_mode="zeros", align_corners=False) + edge


def _contrast(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    """Contrast around the image's mean; `share` of it remains."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + share * (images - mean)


def _edge_colour(images: Tensor) -> Tensor:
    """The median colour of each image's outermost pixels, [b,3,1,1]."""
    sides = [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]]
    return torch.cat(sides, dim=2).median(dim=2).values[:, :, None, None]


_Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
_SHIFTS: dict[str, tuple[_Corruption, tuple[float, float, float, float, float]]] = {
    "noise": (_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "blur": (_blur, (0.02, 0.03, 0.045, 0.06, 0.08)),
    "rotation": (_rotation, (10, 20, 30, 45, 60)),
    "contrast": (_contrast, (0.75, 0.5, 0.35, 0.2, 0.1)),
}
assert tuple(_SHIFTS) == shift.GRADED
