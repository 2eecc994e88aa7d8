"""Every image here is made in memory by the test that needs it, hostile ones included."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import decode, from_array, normalise, preprocess, resize

HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


def pixel(data: bytes, y: int = 0, x: int = 0) -> list[int]:
    return decode(data)[:, y, x].tolist()


def corners() -> Image.Image:
    """3 x 2 pixels, all different, so that every orientation gives another array."""
    pixels = np.arange(1, 7, dtype=np.uint8).reshape(2, 3) * 40
    return Image.fromarray(np.stack([pixels, pixels // 2, pixels // 3], axis=2))


def noise(width: int = 24, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_decode_to_their_exact_pixels(kind: str, options: dict[str, Any]) -> None:
    image = corners()
    decoded = decode(encode(image, kind, **options))
    assert decoded.dtype == torch.uint8
    assert decoded.is_contiguous()
    assert torch.equal(decoded, from_array(np.array(image)))


def test_a_jpeg_decodes_close_to_its_pixels() -> None:
    assert pixel(encode(Image.new("RGB", (16, 16), (200, 100, 50)), "JPEG", quality=95)) == pytest.approx(
        [200, 100, 50], abs=3
    )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = np.array(corners())
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    decoded = decode(encode(corners(), kind, exif=exif.tobytes(), **options))
    assert torch.equal(decoded, from_array(np.ascontiguousarray(upright)))


def test_exif_orientation_of_a_jpeg_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (32, 16))
    image.paste((255, 255, 255), (0, 0, 16, 16))
    decoded = decode(encode(image, "JPEG", exif=exif.tobytes()))
    assert decoded.shape == (3, 32, 16)
    assert decoded[:, 4, 8].min() > 240
    assert decoded[:, 28, 8].max() < 15


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("code", "kind"), [("H", 3), ("I", 4)])
def test_orientation_is_read_in_both_byte_orders_and_widths(order: str, code: str, kind: int) -> None:
    tag = struct.pack(f"{order}HHI{code}", 0x0112, kind, 1, 8).ljust(12, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, 1)
    assert decode(encode(corners(), exif=b"Exif\0\0" + head + tag)).shape == (3, 3, 2)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"Exif\0\0MM\0*" + b"\xff" * 40,
        b"nonsense",
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_ignored_without_a_warning(kind: str, exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encode(corners(), kind, exif=exif)).shape == (3, 2, 3)


def test_greyscale_becomes_three_equal_channels() -> None:
    assert pixel(encode(Image.new("L", (2, 2), 77))) == [77, 77, 77]


def test_one_bit_images_become_black_and_white() -> None:
    image = Image.new("1", (9, 1))
    image.putpixel((8, 0), 1)
    assert decode(encode(image))[0].tolist() == [[0] * 8 + [255]]


def test_a_palette_becomes_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encode(image)
    assert [pixel(data), pixel(data, x=1)] == [[10, 20, 30], [40, 50, 60]]


def test_palette_transparency_is_composited_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.putpixel((1, 0), 1)
    data = encode(image, transparency=bytes([255, 0]))
    assert [pixel(data), pixel(data, x=1)] == [[10, 20, 30], [255, 255, 255]]


def test_alpha_is_composited_over_white() -> None:
    assert pixel(encode(Image.new("RGBA", (1, 1), (200, 0, 0, 0)))) == [255, 255, 255]
    assert pixel(encode(Image.new("RGBA", (1, 1), (200, 0, 0, 255)))) == [200, 0, 0]
    assert pixel(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))) == [127, 127, 127]
    assert pixel(encode(Image.new("RGBA", (1, 1), (200, 0, 0, 0)), "WEBP", lossless=True)) == [255, 255, 255]


def test_grey_with_alpha_is_composited_over_white() -> None:
    assert pixel(encode(Image.new("LA", (1, 1), (0, 128)))) == [127, 127, 127]


def test_a_colour_key_is_composited_over_white() -> None:
    assert pixel(encode(Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9))) == [255, 255, 255]


def test_cmyk_jpegs_become_rgb_with_the_right_polarity() -> None:
    data = encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100)
    assert b"Adobe" in data  # written inverted, as Adobe's programs do
    assert pixel(data) == pytest.approx([0, 255, 255], abs=2)
    paper = encode(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG", quality=100)
    assert pixel(paper) == pytest.approx([255, 255, 255], abs=2)


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    samples = np.array([[0, 257 * 10, 300, 1000, 65535]], dtype=np.uint16)
    assert decode(encode(Image.fromarray(samples)))[1].tolist() == [[0, 10, 1, 4, 255]]


def test_16_bit_colour_is_scaled_and_not_clipped() -> None:
    row = b"\0" + struct.pack(">3H", 257 * 10, 257 * 128, 65535)
    assert pixel(png(1, 1, 16, 2, row)) == [10, 128, 255]


def test_a_16_bit_colour_key_is_composited_over_white() -> None:
    samples = np.array([[0, 1000]], dtype=np.uint16)
    assert decode(encode(Image.fromarray(samples), transparency=1000))[0].tolist() == [[0, 255]]


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("PNG", {})])
def test_the_first_frame_of_an_animation_counts(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert pixel(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)) == [255, 0, 0]


def test_the_first_picture_of_a_multi_picture_jpeg_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert pixel(encode(frames[0], "MPO", save_all=True, append_images=frames[1:])) == pytest.approx(
        [255, 0, 0], abs=3
    )


def test_empty_bytes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="empty") as caught:
        decode(b"", field="images[3]")
    assert caught.value.field == "images[3]"
    assert caught.value.remedy


@pytest.mark.parametrize("data", [b"hello", b"<svg/>", b"\0" * 1000, b"RIFF1234WAVE"])
def test_what_is_no_image_is_refused_with_the_known_formats(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="JPEG, PNG or WebP"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    data = encode(noise(64, 64), kind)
    with pytest.raises(InvalidInput, match="cannot be decoded"):
        decode(data[: max(12, int(len(data) * kept))])


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(InvalidInput):
        decode(png(0, 1, 8, 2, b""))


@pytest.mark.parametrize(
    "bomb",
    [
        png(100_000, 100_000, 8, 2, b"\0"),
        png(10_000, 10_000, 8, 2, b"\0"),
        b"RIFF\x6c\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\0\xff\xff\0" + b"\0" * 80,
    ],
    ids=["png far above", "png a little above", "webp"],
)
def test_a_header_that_declares_too_many_pixels_is_refused_without_a_warning(bomb: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidInput, match="pixels, more than the limit of 50,000,000"):
            decode(bomb)


def test_the_pixel_limit_is_inclusive_and_named() -> None:
    data = encode(corners())
    assert decode(data, max_pixels=6).shape == (3, 2, 3)
    with pytest.raises(InvalidInput, match="3 x 2 = 6 pixels, more than the limit of 5"):
        decode(data, max_pixels=5)


def test_decoding_is_the_same_from_many_threads() -> None:
    files = [encode(noise(width, 30), kind) for width in (20, 40) for kind in ("JPEG", "PNG", "WEBP")] * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, files))
    assert all(torch.equal(a, decode(data)) for a, data in zip(together, files, strict=True))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_grey_arrays_become_three_equal_channels(shape: tuple[int, ...]) -> None:
    image = from_array(np.arange(6, dtype=np.uint8).reshape(shape))
    assert image.tolist() == [[[0, 1, 2], [3, 4, 5]]] * 3


def test_an_array_with_alpha_is_composited_over_white() -> None:
    assert from_array(np.array([[[200, 0, 0, 0]]], dtype=np.uint8)).flatten().tolist() == [255, 255, 255]


def test_an_image_does_not_share_memory_with_its_array() -> None:
    array = np.zeros((2, 2, 3), dtype=np.uint8)
    image = from_array(array)
    array[:] = 255
    assert image.max() == 0


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 2), dtype=np.float32), "dtype float32"),
        (np.zeros(4, dtype=np.uint8), "shape"),
        (np.zeros((2, 2, 2), dtype=np.uint8), "shape"),
        (np.zeros((0, 2), dtype=np.uint8), "shape"),
        (np.zeros((1, 2, 2, 3), dtype=np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: NDArray[Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        from_array(array, field="data")
    assert caught.value.field == "data"
    assert caught.value.remedy


@pytest.mark.parametrize("size", [(7, 50), (50, 7), (16, 16), (1, 1)])
@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_resize_always_gives_the_models_size(mode: str, size: tuple[int, int]) -> None:
    p = Preprocess.model_validate({"image_size": 28, "resize": mode, "crop_ratio": 0.9, **HALF})
    resized = resize(torch.zeros(3, *size, dtype=torch.uint8), p)
    assert resized.shape == (3, 28, 28)
    assert resized.dtype == torch.uint8


def test_squash_keeps_the_edges_and_crop_cuts_them() -> None:
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    image[:, :, :8] = 255
    squash = resize(image, Preprocess(image_size=16, **HALF))
    crop = resize(image, Preprocess(image_size=16, resize="crop", **HALF))
    assert squash[:, :, 0].min() > 240
    assert crop.max() == 0


def test_crop_keeps_the_centre_of_the_enlarged_image() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    image[:, 2:-2, 2:-2] = 255
    p = Preprocess(image_size=16, resize="crop", crop_ratio=0.8, **HALF)
    assert torch.equal(resize(image, p), torch.full((3, 16, 16), 255, dtype=torch.uint8))


def test_downscaling_is_antialiased() -> None:
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    resized = resize(stripes, Preprocess(image_size=16, **HALF))[:, 4:-4, 4:-4]
    assert int(resized.min()) >= 120
    assert int(resized.max()) <= 136


def test_an_extreme_aspect_ratio_costs_no_memory_in_crop_mode() -> None:
    strip = torch.full((3, 1, 2_000_000), 7, dtype=torch.uint8)
    resized = resize(strip, Preprocess(image_size=224, resize="crop", **HALF))
    assert torch.equal(resized, torch.full((3, 224, 224), 7, dtype=torch.uint8))


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    p = Preprocess(image_size=14, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    images = torch.full((2, 3, 1, 1), 255, dtype=torch.uint8)
    assert normalise(images, p).flatten().tolist() == [1.0, 1.0, 0.0] * 2


def test_normalise_treats_a_batch_as_its_images() -> None:
    images = torch.randint(0, 256, (4, 3, 14, 14), dtype=torch.uint8)
    p = Preprocess(image_size=14, mean=(0.48, 0.45, 0.4), std=(0.27, 0.26, 0.28))
    assert torch.equal(normalise(images, p), torch.stack([normalise(image, p) for image in images]))


def test_preprocess_is_decode_then_resize_then_normalise() -> None:
    p = Preprocess(image_size=14, **HALF)
    data = encode(noise())
    assert torch.equal(preprocess(data, p), normalise(resize(decode(data), p), p))
    assert preprocess(data, p).dtype == torch.float32


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 13},
        {"image_size": 1025},
        {"resize": "stretch"},
        {"crop_ratio": 0},
        {"crop_ratio": 1.1},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"interpolation": "nearest"},
        {"antialias": False},
    ],
    ids=str,
)
def test_settings_out_of_range_or_unknown_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Preprocess.model_validate({"image_size": 224, **HALF, **wrong})
