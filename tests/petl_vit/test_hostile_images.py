"""Bytes that are nearly images decode or are refused; nothing else happens."""

import io
import struct
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


def tiff(*tags: tuple[int, int, int, bytes]) -> bytes:
    """A grey TIFF of 8 x 8 pixels, with other or further tags: number, type, count, 4 bytes of value."""
    plain = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 400, 277: 1, 278: 8, 279: 64}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in plain.items()}
    entries |= {tag: struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in tags}
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return (head + b"".join(entries[tag] for tag in sorted(entries))).ljust(400, b"\0") + bytes(64)


@pytest.mark.parametrize("tag", [254, 322, 323])
@pytest.mark.parametrize(
    "value",
    [
        (2, 3, b"ab\0\0"),
        (7, 4, b"abcd"),
        (11, 1, struct.pack("<f", np.nan)),
        (11, 1, struct.pack("<f", np.inf)),
    ],
    ids=["text", "bytes", "nan", "infinite"],
)
def test_a_tiff_whose_tag_is_not_a_number_is_refused(tag: int, value: tuple[int, int, bytes]) -> None:
    assert decode(tiff()).shape == (3, 8, 8)
    with pytest.raises(InvalidInput, match="a tag is not a whole number"):
        decode(tiff((tag, *value)))


def test_a_tiff_of_an_unknown_compression_is_told_which() -> None:
    with pytest.raises(InvalidInput, match=r"\(65000 is not a value that can be read\)"):
        decode(tiff((259, 4, 1, struct.pack("<I", 65000))))


@pytest.mark.parametrize("side", [8, 1100], ids=["whole", "in strips"])
def test_a_png_of_a_palette_that_it_lacks_is_refused(side: int) -> None:
    data = encode(Image.new("P", (side, side)))
    start = data.index(b"PLTE") - 4
    length = struct.unpack(">I", data[start : start + 4])[0]
    with pytest.raises(InvalidInput, match=r"\(it has no palette\)"):
        decode(data[:start] + data[start + 12 + length :])
