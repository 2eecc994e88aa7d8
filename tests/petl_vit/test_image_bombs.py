"""Small files that would cost much memory or time are refused before they do."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from petl_vit import preprocess
from petl_vit.errors import InvalidInput
from petl_vit.jpeg_scans import Scans, scans_of
from petl_vit.preprocess import check, decode, from_array


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PLAIN = encode(Image.new("RGB", (16, 16), "red"), "JPEG", subsampling=0)
PROGRESSIVE = encode(Image.new("RGB", (16, 16), "red"), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]


def of_size(data: bytes, side: int) -> bytes:
    """A JPEG whose header says another size."""
    frame = next(at for at in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if at > 0)
    return data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 :]


def with_scans(count: int, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is there so many times more."""
    return PROGRESSIVE[:-2] + (between + LAST_SCAN) * count + b"\xff\xd9"


def one_component_a_scan(side: int) -> bytes:
    """The start of a baseline JPEG in colour, whose first scan is of one component."""
    head = of_size(PLAIN, side)
    return head[: head.index(b"\xff\xda")] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes(100)


@pytest.mark.parametrize("between", [b"", b"\xff\xfe\x00\x04\xff\xd9", b"\xff\xff\xfe\x00\x02"])
def test_a_jpeg_of_a_thousand_scans_is_refused(between: bytes) -> None:
    for read in (decode, check):
        with pytest.raises(InvalidInput, match="more than 64 scans"):
            read(with_scans(1000, between))


def test_a_jpeg_of_some_more_scans_than_usual_decodes() -> None:
    assert decode(with_scans(40)).shape == (3, 16, 16)


def test_what_follows_the_end_of_a_jpeg_is_not_counted() -> None:
    assert decode(PROGRESSIVE + LAST_SCAN * 1000).shape == (3, 16, 16)


def test_a_large_jpeg_is_not_reduced_where_all_of_it_would_be_kept() -> None:
    with pytest.raises(InvalidInput, match="several scans, more than the limit"):
        decode(one_component_a_scan(60_000))
    with pytest.raises(InvalidInput, match="progressive JPEG, more than the limit"):
        decode(of_size(PROGRESSIVE, 60_000))


def test_scans_are_counted() -> None:
    assert scans_of(PLAIN, 9) == Scans(several=False, number=1)
    assert scans_of(one_component_a_scan(16), 9).several
    assert scans_of(PROGRESSIVE, 99) == Scans(several=True, number=PROGRESSIVE.count(b"\xff\xda"))
    assert scans_of(with_scans(50), 9).number == 10
    assert scans_of(b"", 9) == scans_of(b"\xff\xd8\xff", 9) == Scans(several=False, number=0)


def tiled(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels, in one tile of another size."""
    data = zlib.compress(bytes(64))
    data += b"\0" * (len(data) % 2)
    tags = ((256, 3, 16), (257, 3, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1))
    tags += ((322, 4, side), (323, 4, side), (324, 4, 8), (325, 4, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (
        b"II*\0"
        + struct.pack("<IH", 8 + len(data), len(tags))[:4]
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def test_a_tiff_with_tiles_larger_than_any_image_is_refused() -> None:
    with pytest.raises(InvalidInput, match="tiles of 30000 x 30000"):
        decode(tiled(30_000))


@pytest.mark.parametrize(("width", "height"), [(16_000, 16_000), (2**24, 2**24), (50, 2**20 + 1)])
def test_a_webp_with_a_huge_canvas_is_refused(width: int, height: int) -> None:
    frame = Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    data = bytearray(encode(frame, "WEBP", save_all=True, append_images=[Image.new("RGBA", (8, 8))]))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    with pytest.raises(InvalidInput):
        decode(bytes(data))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_png_whose_text_unpacks_to_megabytes_is_refused_or_read_without_it(kind: bytes) -> None:
    packer = zlib.compressobj(9)
    packed = b"".join([packer.compress(bytes(2**20)) for _ in range(8)]) + packer.flush()
    chunk = b"name\0\0" + packed
    good = encode(Image.new("RGB", (8, 8)), "PNG")
    crc = zlib.crc32(kind + chunk)
    data = good[:33] + struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", crc) + good[33:]
    try:
        assert decode(data).shape == (3, 8, 8)
    except InvalidInput:
        return


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_an_image_with_a_longer_side_than_any_picture_is_refused(size: tuple[int, int]) -> None:
    """A PNG of 1 x 40,000,000 pixels, 80 KB, took 16 s and 2.4 GB: scaling keeps a weight for each row."""
    data = encode(Image.new("L", size), "PNG")
    for read in (decode, check):
        with pytest.raises(InvalidInput, match="a side of more than 65,535"):
            read(data)
    with pytest.raises(InvalidInput, match="a side of more than 65,535"):
        from_array(np.zeros((size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 8, 7)), ("RGBA", (9, 8, 7, 100)), ("LA", (9, 99))])
def test_an_image_in_strips_has_the_pixels_of_the_whole(
    mode: str, colour: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.new(mode, (40, 31), colour)
    image.paste(colour[::-1], (5, 7, 20, 30))
    data = encode(image, "PNG")
    whole = decode(data)
    monkeypatch.setattr(preprocess, "_STRIP_PIXELS", 100)
    assert torch.equal(decode(data), whole)
    assert len(whole.unique()) > 1


_PEAK = """
import sys
from petl_vit.preprocess import decode

def kibibytes(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

data = sys.stdin.buffer.read()
decode(SMALL)
before = kibibytes("VmRSS")
pixels = decode(data)
print(1024 * (kibibytes("VmHWM") - before) / (pixels.shape[1] * pixels.shape[2]))
"""
"""Decodes a small image and then one from standard input; prints the bytes a pixel that this took at most."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux shows it")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("WEBP", "RGB", {"quality": 1, "method": 0}),
        ("WEBP", "RGBA", {"lossless": True, "quality": 0, "method": 0}),
        ("AVIF", "RGBA", {"quality": 1, "speed": 10}),
        ("GIF", "P", {}),
        ("JPEG", "CMYK", {"quality": 5, "progressive": True}),
    ],
)
def test_decoding_takes_no_more_bytes_a_pixel_than_docs_security_md_says(
    kind: str, mode: str, options: dict[str, Any]
) -> None:
    data = encode(Image.new(mode, (4000, 4000)), kind, **options)
    small = encode(Image.new(mode, (16, 16)), kind, **options)
    command = [sys.executable, "-c", _PEAK.replace("SMALL", repr(small))]
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=100)
    assert 3 < float(done.stdout) < 12.5
