"""Bytes that are nearly images decode or are refused; nothing else happens."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from petl_vit.errors import InvalidInput
from petl_vit.preprocess import decode

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

pytestmark = pytest.mark.filterwarnings("ignore")  # damaged tags of a TIFF, which the reader does without


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 24, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@settings(max_examples=400)
@given(
    kind=st.sampled_from([*KINDS, "P", "EXIF", "APNG", "LZW"]),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 200),
)
def test_mutated_files_decode_or_are_refused(kind: str, edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SEEDS[kind])
    for place, value in edits:
        data[place % len(data)] = value
    try:
        decoded = decode(bytes(data[: len(data) - cut]), max_pixels=1_000_000)
    except InvalidInput:
        return
    assert decoded.dtype == torch.uint8
    assert decoded.shape[0] == 3


@settings(max_examples=100)
@given(
    magic=st.sampled_from(
        [
            *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8X"),
            *(b"GIF89a", b"II*\0\x08\0\0\0", b"MM\0*", b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypheic"),
            b"BM\xff\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
        ]
    ),
    tail=st.binary(max_size=200),
)
def test_random_bytes_behind_a_known_signature_are_refused(magic: bytes, tail: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(magic + tail)


def _seeds() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    files = {kind: encode(noise(), kind) for kind in KINDS}
    files["P"] = encode(noise().quantize(16), transparency=bytes(range(16)))
    files["EXIF"] = encode(noise(), "JPEG", exif=exif.tobytes(), progressive=True)
    files["APNG"] = encode(noise(), "PNG", save_all=True, append_images=[noise(), Image.new("RGB", (24, 20))])
    files["LZW"] = encode(noise(), "TIFF", compression="tiff_lzw")
    return files


SEEDS = _seeds()
