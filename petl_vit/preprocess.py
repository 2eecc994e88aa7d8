"""From a file's bytes to the ViT's input: the one path of training, serving and the command line.

Knows image formats, sizes and normalisation; does not know files, tasks or requests. Decoding raises
InvalidInput and nothing else, whatever the bytes are, and never allocates the pixels of an image that its
header declares too large. All functions are pure and safe in threads, and release the GIL during the work
that takes time.

Shapes: H, W the image's size, S the model's input size. Images are RGB, uint8, on the CPU.
ICC profiles are ignored, as in the training data of the backbones.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from petl_vit.errors import InvalidInput
from petl_vit.image_input import MAX_PIXELS, Interpolation, Preprocess
from petl_vit.orientation import upright
from petl_vit.readers import check_sides, in_less_time, load, opened, undecodable

_MAX_ASPECT = 16
_STRIP_PIXELS = 2**20


def preprocess(data: bytes, p: Preprocess, *, max_pixels: int = MAX_PIXELS, field: str = "image") -> Tensor:
    """An image file as the model's input, float32 [3,S,S].

    Raises:
        InvalidInput: As `decode` does.
    """
    return normalise(sized(data, p, max_pixels=max_pixels, field=field), p)


def sized(data: bytes, p: Preprocess, *, max_pixels: int = MAX_PIXELS, field: str = "image") -> Tensor:
    """An image file at the model's size, uint8 [3,S,S].

    Raises:
        InvalidInput: As `decode` does.
    """
    return resize(decode(data, max_pixels=max_pixels, at_least=p.side, field=field), p)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int = 1, field: str = "image") -> Tensor:
    """The pixels of a JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC file, uint8 [3,H,W], upright and RGB.

    Orientation by EXIF or XMP is applied; grey, palette and CMYK become RGB; transparency is composited
    over white; 16-bit samples are scaled to 8 bits; of an animation or of pages the first one counts. A
    baseline JPEG of more than `max_pixels` is decoded at 1/2, 1/4 or 1/8 of its size.

    Args:
        max_pixels: Most pixels of the decoded image.
        at_least: Pixels that the shorter side of a JPEG must keep when it is decoded at a reduced scale.

    Raises:
        InvalidInput: Empty, another format, truncated or undecodable, or more than `max_pixels`; HEIC and
            AVIF where what reads them is not installed.
    """
    # Nothing here refers to the image while its pixels are copied into the tensor.
    pixels = from_pillow(
        opened(data, max_pixels=max_pixels, at_least=at_least, field=field),
        field=field,
    )
    return _to_tensor(pixels)


def check(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int = 1, field: str = "image") -> None:
    """Refuse what `decode` would refuse, in less time.

    Raises:
        InvalidInput: As `decode` does.
    """
    image = opened(data, max_pixels=max_pixels, at_least=at_least, field=field)
    from_pillow(in_less_time(image), field=field)


def from_pillow(image: Image.Image, *, field: str = "image") -> NDArray[np.uint8]:
    """The pixels of a Pillow image, uint8 [H,W,3], upright and RGB: those that `decode` has of its file.

    Raises:
        InvalidInput: Its file is truncated or undecodable.
    """
    load(image, field=field)
    try:
        return upright(_rgb_pixels(image), image)
    except Exception as error:
        raise undecodable(error, field) from error


def from_array(array: NDArray[Any], *, field: str = "image") -> Tensor:
    """An array uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4] as an image, uint8 [3,H,W]; alpha over white.

    Raises:
        InvalidInput: Another dtype or shape, no pixels, or a side of more than `MAX_SIDE`.
    """
    if array.dtype != np.uint8:
        raise InvalidInput(
            f"has dtype {array.dtype}, not uint8",
            field=field,
            remedy="scale the values to 0..255 and store uint8",
        )
    pixels = array[:, :, None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise InvalidInput(
            f"has shape {list(array.shape)}",
            field=field,
            remedy="give [height, width] or [height, width, 1, 3 or 4 channels], at least one pixel",
        )
    check_sides(pixels.shape[1], pixels.shape[0], field)
    if pixels.shape[2] == 1:
        return _to_tensor(np.repeat(pixels, 3, axis=2))
    if pixels.shape[2] == 4:
        return _to_tensor(np.array(_over_white(Image.fromarray(np.ascontiguousarray(pixels)))))
    return _to_tensor(np.array(pixels))


def resize(image: Tensor, p: Preprocess) -> Tensor:
    """An image uint8 [3,H,W] at the model's size, uint8 [3,S,S].

    "squash" ignores the aspect ratio; "crop" brings the shorter side to S / crop_ratio and keeps the
    central S x S; "squash-crop" does so after ignoring the aspect ratio.
    """
    if p.resize != "crop":
        return _middle(_scaled(image, p.side, p.side, p.interpolation), p.image_size, p.image_size)
    image = _bounded_aspect(image)
    height, width = image.shape[-2:]
    scale = p.side / min(height, width)
    sides = max(p.side, round(height * scale)), max(p.side, round(width * scale))
    return _middle(_scaled(image, *sides, p.interpolation), p.image_size, p.image_size)


def normalise(images: Tensor, p: Preprocess) -> Tensor:
    """Images uint8 [...,3,S,S] as (x / 255 - mean) / std, float32 on the same device."""
    assert images.dtype == torch.uint8, f"normalise takes uint8, got {images.dtype}"
    mean = torch.tensor(p.mean, dtype=torch.float32, device=images.device)[:, None, None]
    std = torch.tensor(p.std, dtype=torch.float32, device=images.device)[:, None, None]
    return (images.to(torch.float32) / 255 - mean) / std


def _rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [H,W,3], made in strips: what Pillow needs for a strip is small beside the image."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        pixels[top:bottom] = np.asarray(_rgb(strip))
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Only grey keeps 16 bits in Pillow (colour is read by its high byte), and converting it clips.
    samples = np.asarray(image)
    grey = np.rint(samples.clip(0, 65535) / 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _over_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _scaled(image: Tensor, height: int, width: int, interpolation: Interpolation) -> Tensor:
    if tuple(image.shape[-2:]) == (height, width):
        return image
    # uint8 on a CPU stays uint8: it is rounded and clamped once, at the end.
    return F.interpolate(image[None], [height, width], mode=interpolation, antialias=True)[0]


def _middle(image: Tensor, height: int, width: int) -> Tensor:
    """The centre of an image that is at least as large."""
    top, left = round((image.shape[-2] - height) / 2), round((image.shape[-1] - width) / 2)
    return image[..., top : top + height, left : left + width]


def _bounded_aspect(image: Tensor) -> Tensor:
    # A 1 x 1,000,000 image scaled by its shorter side would take gigabytes, so it is cut to its middle.
    height, width = image.shape[-2:]
    longest = _MAX_ASPECT * min(height, width)
    if max(height, width) <= longest:
        return image
    return _middle(image, min(height, longest), min(width, longest))
