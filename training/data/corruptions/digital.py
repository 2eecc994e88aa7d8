"""ImageNet-C's digital corruptions. Shapes: b images [b, 3, H, W] in [0, 1], H x W pixels."""

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from training.data.corruptions.constants import Strength
from training.data.corruptions.filters import smoothed, uniform

Generators = Sequence[torch.Generator]


def brightness(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """A higher value in HSV, at the same hue and saturation; what is added."""
    (more,) = strength
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * brighter / value.clamp(min=1e-6), brighter)


def contrast(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Less contrast around the mean of each colour; what remains."""
    (remains,) = strength
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + remains * (images - mean)


def elastic_transform(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """A random affine map, then a random smooth one: length and deviation of its moves, reach of the affine.

    Lengths of the moves are those before they are smoothed.
    """
    length, sigma, reach = (scale * value for value in strength)
    height, width = images.shape[-2:]
    images = _mapped(images, _affine(height, width, reach, generators), symmetric=False)
    moves = uniform(generators, -1, 1, 2, height, width)
    moves = length * smoothed(moves, sigma, border="symmetric", truncate=3.0)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    places = torch.stack([columns + moves[:, 0], rows + moves[:, 1]], dim=-1)
    return _mapped(images, places, symmetric=True)


def pixelate(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """Fewer and larger pixels; the share of each side that remains."""
    (share,) = strength
    height, width = images.shape[-2:]
    few = (max(1, int(width * share)), max(1, int(height * share)))

    def coarse(image: Image.Image) -> Image.Image:
        box = Image.Resampling.BOX
        return image.resize(few, box).resize((width, height), box)

    return _each(images, coarse)


def jpeg_compression(images: Tensor, strength: Strength, scale: float, generators: Generators) -> Tensor:
    """What is left by JPEG; its quality."""
    (quality,) = strength

    def compressed(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _each(images, compressed)


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """What Pillow makes of each image."""
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(one))) for one in pixels])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 255


def _affine(height: int, width: int, reach: float, generators: Generators) -> Tensor:
    """[b, H, W, 2]: where the pixels of affine maps come from, x and y; three points move up to `reach`."""
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float64)
    side = max(1, min(height, width) // 3)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    before = centre + side * corners
    after = before + uniform(generators, -reach, reach, 3, 2).double()
    ones = torch.ones(len(after), 3, 1, dtype=torch.float64)
    back = torch.linalg.solve(torch.cat([after, ones], dim=2), before.expand_as(after))  # [b, 3, 2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).double()
    sources: Tensor = places.flatten(0, 1) @ back
    return sources.view(-1, height, width, 2).float()


def _mapped(images: Tensor, places: Tensor, *, symmetric: bool) -> Tensor:
    """Images at places [b, H, W, 2], x and y in pixels, reflected at the borders.

    Args:
        symmetric: Whether the last pixel is reflected too.
    """
    height, width = images.shape[-2:]
    sides = torch.tensor([width, height], dtype=torch.float32)
    grid = (2 * places + 1) / sides - 1 if symmetric else 2 * places / (sides - 1).clamp(min=1) - 1
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=not symmetric)
