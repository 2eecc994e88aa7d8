"""From a file's bytes to a Pillow image whose size is known to be allowed; nothing is decoded yet.

Pillow's readers are called directly: `Image.open` would try some forty others on hostile bytes, and has a
pixel limit of its own, which warns before ours is asked.
"""

import importlib
import io
import struct
import warnings
from collections.abc import Callable
from typing import Any

from PIL import Image, JpegImagePlugin

from image_files.formats import HEAD_BYTES, format_of
from petl_vit.errors import InvalidInput
from petl_vit.image_input import MAX_SIDE
from petl_vit.jpeg_scans import scans_of
from petl_vit.not_images import explained

READ = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC"
"""The formats; HEIC needs a library of its own."""

_CONVERT = "convert it to JPEG, PNG or WebP"
_READERS = {
    "PNG": "PIL.PngImagePlugin:PngImageFile",
    "WebP": "PIL.WebPImagePlugin:WebPImageFile",
    "GIF": "PIL.GifImagePlugin:GifImageFile",
    "TIFF": "PIL.TiffImagePlugin:TiffImageFile",
    "BMP": "PIL.BmpImagePlugin:BmpImageFile",
    "AVIF": "PIL.AvifImagePlugin:AvifImageFile",
    "HEIC": "pillow_heif.as_plugin:HeifImageFile",
}
_NEEDS = {"AVIF": "Pillow 11.3 or newer", "HEIC": "pillow-heif, the extra corolla[heic]"}
_SCALES = (2, 4, 8)
_MOST_SCANS = 64
_TILE_SIDES = (322, 323)
_KIND, _PREVIEW = 254, 1
"""TIFF's tag NewSubfileType, and its bit for a smaller copy of another image in the file."""

# A damaged animation falls back to the still image, and damaged tags to the pixels, which are what counts.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Png|Tiff)ImagePlugin")


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Pillow's JPEG reader without its EXIF parser, which warns about damaged tags while opening."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


class _FirstFrame:
    """A decoder of WebP or AVIF that is freed with its first frame, where Pillow would keep it.

    It holds 4 to 8 bytes a pixel, beside the 8 that Pillow takes to make an image of the frame.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def get_next(self) -> Any:
        return self._freed().get_next()

    def get_frame(self, number: int) -> Any:
        return self._freed().get_frame(number)

    def reset(self) -> None:
        """Done by Pillow after a frame that cannot be decoded."""

    def _freed(self) -> Any:
        decoder, self._decoder = self._decoder, None
        return decoder


def opened(data: bytes, *, max_pixels: int, at_least: int, field: str) -> Image.Image:
    """An image file of a known format, at a reduced scale where it is a JPEG of more than `max_pixels`.

    Args:
        at_least: Pixels that the shorter side of a reduced image has to keep.

    Raises:
        InvalidInput: Empty, another format, undecodable, or too large.
    """
    reader = _reader(data, field)
    try:
        image = reader(io.BytesIO(data))
        width, height = image.size
    except Image.DecompressionBombError as error:
        raise _too_large("too many pixels", max_pixels, field) from error
    # Pillow raises many classes on hostile bytes: OSError, SyntaxError, ValueError, struct.error,
    # zlib.error, EOFError, OverflowError, MemoryError, and more with each format and version.
    # Only its parser runs in the try block, so every error is about these bytes.
    except Exception as error:
        raise undecodable(error, field) from error
    several = isinstance(image, _Jpeg) and _several_scans(data, field)
    if width * height > max_pixels:
        _reduce(image, max_pixels, at_least, field, several=several)
    check_sides(*image.size, field)
    if image.format in ("WEBP", "AVIF"):
        image._decoder = _FirstFrame(image._decoder)  # type: ignore[attr-defined]
    if image.format == "PNG" and image.mode == "P" and image.palette is None:
        raise undecodable(ValueError("it has no palette"), field)
    if image.format == "TIFF":
        _check_tiff(image, max_pixels, field)
    return image


def check_sides(width: int, height: int, field: str) -> None:
    """Refuses an image that is longer than any picture is, however few its pixels.

    Raises:
        InvalidInput: A side is longer than `MAX_SIDE`.
    """
    if max(width, height) > MAX_SIDE:
        raise InvalidInput(
            f"the image of {width:,} x {height:,} pixels has a side of more than {MAX_SIDE:,}",
            field=field,
            remedy="scale it down, or cut it into several",
        )


def load(image: Image.Image, *, field: str) -> None:
    """Decodes the pixels of an image.

    Raises:
        InvalidInput: Its file is truncated or undecodable.
    """
    try:
        image.load()
    except Exception as error:
        raise undecodable(error, field) from error


def in_less_time(image: Image.Image) -> Image.Image:
    """The image at a small scale where its reader can do that; all of its file is decoded all the same."""
    if isinstance(image, _Jpeg):
        image.draft(image.mode, (max(1, image.width // _SCALES[-1]), max(1, image.height // _SCALES[-1])))
    return image


def undecodable(error: Exception, field: str) -> InvalidInput:
    """What is said of a file that Pillow could not decode."""
    reason = " ".join(str(error).split())[:120]
    # What Pillow raised with one of these says where in its code.
    cause = error.__cause__ or error
    if isinstance(cause, struct.error | EOFError | IndexError):
        reason = "it ends too early"
    elif isinstance(cause, KeyError):  # as of a compression that Pillow has no name for
        reason = f"{reason} is not a value that can be read"
    return InvalidInput(
        "the image cannot be decoded" + (f" ({reason})" if reason else ""),
        field=field,
        remedy="the file is damaged or truncated: write it again",
    )


def _reader(data: bytes, field: str) -> Callable[[io.BytesIO], Image.Image]:
    if not data:
        raise InvalidInput("the image is empty (0 bytes)", field=field, remedy=f"use a {READ} file")
    kind = format_of(data[:HEAD_BYTES])
    if kind == "JPEG":
        return _Jpeg
    if kind is None:
        problem, remedy = explained(data)
        raise InvalidInput(problem, field=field, remedy=remedy)
    if kind not in _READERS:
        raise InvalidInput(f"the image is {_article(kind)} {kind} file", field=field, remedy=_CONVERT)
    module, _, name = _READERS[kind].partition(":")
    try:
        imported = importlib.import_module(module)
        if kind == "AVIF" and not imported.SUPPORTED:
            raise ImportError("Pillow was built without AVIF")
    except ImportError as error:
        raise InvalidInput(
            f"the image is {_article(kind)} {kind} file, which needs {_NEEDS.get(kind, 'a newer Pillow')}",
            field=field,
            remedy=f"run pip install 'corolla[heic]' where it is read, or {_CONVERT}"
            if kind == "HEIC"
            else f"install it where the image is read, or {_CONVERT}",
        ) from error
    reader: Callable[[io.BytesIO], Image.Image] = getattr(imported, name)
    return reader


def _article(kind: str) -> str:
    return "an" if kind[0] in "AiO" or kind == "SVG" else "a"


def _several_scans(data: bytes, field: str) -> bool:
    """Whether a JPEG has several scans, which are refused where they are more than an image has."""
    scans = scans_of(data, _MOST_SCANS)
    if scans.number > _MOST_SCANS:
        raise InvalidInput(
            f"the image is a JPEG of more than {_MOST_SCANS} scans, each of which takes as long as an image",
            field=field,
            remedy="write it again: encoders make about ten",
        )
    return scans.several


def _reduce(image: Image.Image, max_pixels: int, at_least: int, field: str, *, several: bool) -> None:
    """Has a JPEG decoded at the largest scale that is allowed.

    Only one of a single scan: one of several is kept whole in memory, whatever the scale.
    """
    width, height = image.size
    extent = f"{width} x {height} = {width * height:,} pixels"
    if not isinstance(image, _Jpeg):
        raise _too_large(extent, max_pixels, field)
    if several:
        kind = "a progressive JPEG" if image.info.get("progressive") else "a JPEG of several scans"
        raise _too_large(f"{extent} in {kind}", max_pixels, field)
    for scale in _SCALES:
        smaller = (-(-width // scale), -(-height // scale))
        if smaller[0] * smaller[1] <= max_pixels:
            if min(smaller) >= at_least:
                image.draft(image.mode, (max(1, width // scale), max(1, height // scale)))
            break
    if image.size[0] * image.size[1] > max_pixels:
        raise _too_large(extent, max_pixels, field)


def _too_large(extent: str, max_pixels: int, field: str) -> InvalidInput:
    return InvalidInput(
        f"the image is too large ({extent}, more than the limit of {max_pixels:,})",
        field=field,
        remedy="scale it down, or raise --max-pixels where it is read",
    )


def _check_tiff(image: Any, max_pixels: int, field: str) -> None:
    """Refuses what a TIFF may hold beside a picture: a raw photo behind its preview, measurements.

    And tiles that are larger than an image may be: the decoder needs one whole, however small the image.
    """
    try:
        # A tag may be of any type, a text or a list too.
        width, height, kind = (int(image.tag_v2.get(tag, 0) or 0) for tag in (*_TILE_SIDES, _KIND))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise undecodable(ValueError("a tag is not a whole number"), field) from error
    if width * height > max_pixels:
        raise _too_large(f"tiles of {width} x {height} = {width * height:,} pixels", max_pixels, field)
    if kind & _PREVIEW:
        raise InvalidInput("the image is a camera raw file", field=field, remedy=_CONVERT)
    if image.mode in ("F", "I"):
        samples = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise InvalidInput(
            f"the image is a TIFF of {samples} samples, whose range is not known",
            field=field,
            remedy="scale it to 8 or 16 bits",
        )
