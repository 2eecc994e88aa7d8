"""From a file's bytes to the ViT's input: the one path of training, serving and the command line.

Knows image formats, sizes and normalisation; does not know files, tasks or requests. Decoding raises
InvalidInput and nothing else, whatever the bytes are, and never allocates the pixels of an image that its
header declares too large. All functions are pure and safe in threads, and release the GIL during the work
that takes time.

Shapes: H, W the image's size, S the model's input size. Images are RGB, uint8, on the CPU.
ICC profiles are ignored, as in the training data of the backbones.
"""

import io
import struct
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from torch import Tensor
from torch.nn import functional as F

from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.not_images import explained

MAX_PIXELS = 50_000_000
"""The default limit of `decode`: more pixels than a camera's, fewer than a decompression bomb's."""

_FORMATS = "JPEG, PNG or WebP"
_MAX_ASPECT = 16
_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OTHER_FORMATS = {b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF"}

# A malformed animation falls back to the PNG's still image, which is the frame that counts.
warnings.filterwarnings("ignore", message="Invalid APNG", category=UserWarning, module=r"PIL\.")


def preprocess(data: bytes, p: Preprocess, *, max_pixels: int = MAX_PIXELS, field: str = "image") -> Tensor:
    """A JPEG, PNG or WebP file as the model's input, float32 [3,S,S].

    Raises:
        InvalidInput: As `decode` does.
    """
    return normalise(resize(decode(data, max_pixels=max_pixels, field=field), p), p)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, field: str = "image") -> Tensor:
    """The pixels of a JPEG, PNG or WebP file, uint8 [3,H,W], upright and RGB.

    EXIF orientation is applied; grey, palette and CMYK become RGB; transparency is composited over
    white; 16-bit samples are scaled to 8 bits; of an animation the first frame counts.

    Raises:
        InvalidInput: Empty, another format, truncated or undecodable, or more than `max_pixels`.
    """
    # Pillow raises many classes on hostile bytes: OSError, SyntaxError, ValueError, struct.error,
    # zlib.error, EOFError, OverflowError, MemoryError, and more with each format and version.
    # Only its parser runs in the try blocks, so every error is about these bytes.
    reader = _reader(data, field)
    try:
        image = reader(io.BytesIO(data))
        width, height = image.size
    except Image.DecompressionBombError as error:
        raise _too_large(None, max_pixels, field) from error
    except Exception as error:
        raise _undecodable(error, field) from error
    if width * height > max_pixels:
        raise _too_large((width, height), max_pixels, field)
    return _to_tensor(from_pillow(image, field=field))


def from_pillow(image: Image.Image, *, field: str = "image") -> NDArray[np.uint8]:
    """The pixels of a Pillow image, uint8 [H,W,3], upright and RGB: those that `decode` has of its file.

    Raises:
        InvalidInput: Its file is truncated or undecodable.
    """
    try:
        image.load()
        return np.array(_upright(_rgb(image), image))
    except Exception as error:
        raise _undecodable(error, field) from error


def from_array(array: NDArray[Any], *, field: str = "image") -> Tensor:
    """An array uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4] as an image, uint8 [3,H,W]; alpha over white.

    Raises:
        InvalidInput: Another dtype or shape, or no pixels.
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
    if pixels.shape[2] == 1:
        return _to_tensor(np.repeat(pixels, 3, axis=2))
    if pixels.shape[2] == 4:
        return _to_tensor(np.array(_over_white(Image.fromarray(np.ascontiguousarray(pixels)))))
    return _to_tensor(np.array(pixels))


def resize(image: Tensor, p: Preprocess) -> Tensor:
    """An image uint8 [3,H,W] at the model's size, uint8 [3,S,S].

    "squash" ignores the aspect ratio; "crop" brings the shorter side to S / crop_ratio and keeps the
    central S x S.
    """
    if p.resize == "squash":
        return _scaled(image, p.image_size, p.image_size)
    image = _bounded_aspect(image)
    height, width = image.shape[-2:]
    shorter = round(p.image_size / p.crop_ratio)
    scale = shorter / min(height, width)
    scaled = _scaled(image, max(shorter, round(height * scale)), max(shorter, round(width * scale)))
    return _middle(scaled, p.image_size, p.image_size)


def normalise(images: Tensor, p: Preprocess) -> Tensor:
    """Images uint8 [...,3,S,S] as (x / 255 - mean) / std, float32 on the same device."""
    assert images.dtype == torch.uint8, f"normalise takes uint8, got {images.dtype}"
    mean = torch.tensor(p.mean, dtype=torch.float32, device=images.device)[:, None, None]
    std = torch.tensor(p.std, dtype=torch.float32, device=images.device)[:, None, None]
    return (images.to(torch.float32) / 255 - mean) / std


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Pillow's JPEG reader without its EXIF parser, which warns about damaged tags while opening."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


def _reader(data: bytes, field: str) -> type[ImageFile.ImageFile]:
    # The readers are called directly: `Image.open` tries its own pixel limit first, and warns.
    if data[:3] == b"\xff\xd8\xff":
        return _Jpeg
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return PngImagePlugin.PngImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if not data:
        raise InvalidInput("the image is empty (0 bytes)", field=field, remedy=f"send a {_FORMATS} file")
    other = next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), None)
    if other is None:
        problem, remedy = explained(data)
        raise InvalidInput(problem, field=field, remedy=remedy)
    raise InvalidInput(f"the image is a {other} file", field=field, remedy=f"convert it to {_FORMATS}")


def _undecodable(error: Exception, field: str) -> InvalidInput:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InvalidInput(
        f"the image cannot be decoded ({reason})",
        field=field,
        remedy="the file is damaged or truncated: write it again",
    )


def _too_large(size: tuple[int, int] | None, max_pixels: int, field: str) -> InvalidInput:
    extent = f"{size[0]} x {size[1]} = {size[0] * size[1]:,} pixels" if size else "too many pixels"
    return InvalidInput(
        f"the image has {extent}, more than the limit of {max_pixels:,}", field=field, remedy="scale it down"
    )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


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


def _upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    transpose = _TRANSPOSES.get(_orientation(_exif(source)))
    return pixels if transpose is None else pixels.transpose(transpose)


def _exif(image: Image.Image) -> bytes:
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        return exif
    profile = image.info.get("Raw profile type exif")  # how ImageMagick stores it in a PNG
    if not isinstance(profile, str):
        return b""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _orientation(exif: bytes) -> int:
    """The orientation tag of the first directory, 1 where there is none or the tags are damaged."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                code = {1: "B", 4: "I"}.get(kind, "H")
                return int(struct.unpack_from(f"{order}{code}", tiff, entry + 8)[0])
    except struct.error:
        pass
    return 1


def _to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _scaled(image: Tensor, height: int, width: int) -> Tensor:
    if tuple(image.shape[-2:]) == (height, width):
        return image
    # uint8 on a CPU stays uint8: it is rounded and clamped once, at the end.
    return F.interpolate(image[None], [height, width], mode="bicubic", antialias=True)[0]


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
