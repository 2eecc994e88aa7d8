"""Encoded images: pixels of the declared size, or `InvalidInput`."""

import io

import numpy as np
import torch
from PIL import Image

from petl_vit.errors import InvalidInput
from petl_vit.preprocess import check as check_image
from petl_vit.preprocess import decode

MAX_PIXELS = 250_000


def seeds() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    noise = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _file(noise, "JPEG"),
        _file(noise, "JPEG", progressive=True, exif=exif.tobytes()),
        _file(noise.convert("CMYK"), "JPEG"),
        _file(noise, "PNG"),
        _file(noise.quantize(4), "PNG", transparency=b"\0\x80\xff\xff"),
        _file(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG"),
        _file(noise, "PNG", save_all=True, append_images=[noise]),
        _file(noise, "WEBP", quality=20),
        _file(noise, "WEBP", lossless=True, save_all=True, append_images=[noise]),
        _file(noise, "GIF"),
        *(
            _file(noise, "TIFF", compression=name)
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")
        ),
        _file(noise.convert("1"), "TIFF", compression="group4"),
        _file(noise, "BMP"),
        _file(noise, "AVIF", quality=20),
    ]


def check(data: bytes) -> None:
    for read in (decode, check_image):
        try:
            pixels = read(data, max_pixels=MAX_PIXELS)
        except InvalidInput:
            continue
        if isinstance(pixels, torch.Tensor):
            assert pixels.dtype == torch.uint8, pixels.dtype
            assert pixels.shape[:1] == (3,), pixels.shape
            assert 0 < pixels[0].numel() <= MAX_PIXELS, pixels.shape


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
