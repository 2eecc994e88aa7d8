"""Formats of image files: what is read, what is refused by name, which way up, and at which scale."""

import io
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import check, decode, from_array, from_pillow, sized

SMALL = Preprocess(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(image).save(buffer := io.BytesIO(), **options)
    else:
        image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def picture(width: int = 12, height: int = 8) -> Image.Image:
    """White above, black below, with a red left edge, so that every turn gives another picture."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = 255
    pixels[:, :2] = (255, 0, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF"])
def test_the_other_formats_of_photos_decode_to_their_pixels(kind: str) -> None:
    assert torch.equal(decode(encode(picture(), kind)), from_array(np.array(picture())))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_avif_and_heic_decode_close_to_their_pixels(kind: str) -> None:
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    decoded = decode(encode(image, kind, quality=95))
    assert decoded.shape == (3, 64, 64)
    assert decoded[:, 32, 32].tolist() == pytest.approx([200, 100, 50], abs=6)


def test_the_first_frame_of_a_gif_and_the_first_page_of_a_tiff_count() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "TIFF"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode(data)[:, 0, 0].tolist() == [255, 0, 0]


def test_transparency_in_a_gif_or_tiff_is_composited_over_white() -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    for kind in ("GIF", "TIFF"):
        assert decode(encode(clear, kind)).flatten().tolist() == [255] * 12


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16"])
def test_every_kind_of_samples_of_a_tiff_is_read(mode: str) -> None:
    grey = np.full((2, 2), 257 * 77 if mode == "I;16" else 77, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(grey) if mode in ("L", "I;16") else Image.fromarray(grey).convert(mode)
    expected = 0 if mode == "1" else 77
    assert abs(int(decode(encode(image, "TIFF")).float().mean()) - expected) <= (255 if mode == "1" else 1)


@pytest.mark.parametrize(("mode", "says"), [("F", "floating-point"), ("I", "32-bit or signed")])
def test_measurements_in_a_tiff_are_refused(mode: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"a TIFF of {says} samples") as caught:
        decode(encode(Image.new(mode, (2, 2)), "TIFF"))
    assert caught.value.remedy == "scale it to 8 or 16 bits"


def test_a_raw_photo_is_not_taken_for_the_preview_in_it() -> None:
    preview = encode(picture(), "TIFF", tiffinfo={254: 1})
    for data in (preview, b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 200):
        with pytest.raises(InvalidInput, match="the image is a camera raw file; convert it to JPEG"):
            decode(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"8BPS\0\1", "the image is a Photoshop file"),
        (b"\0\0\0\x0cjP  \r\n", "the image is a JPEG 2000 file"),
        (b"\xff\x0a\0\0", "the image is a JPEG XL file"),
        (b"<svg xmlns=", "the image is an SVG file"),
        (b"%PDF-1.7", "the image is a PDF file"),
        (b"P6\n2 2\n255\n", "the image is a PNM file"),
        (b"BMW and other cars are not bitmaps", "not an image of a known format"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "not an image of a known format"),
    ],
)
def test_what_is_not_read_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        decode(data)
    assert caught.value.remedy == "convert it to JPEG, PNG or WebP"


def test_heic_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(InvalidInput) as caught:
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert (
        caught.value.problem == "the image is a HEIC file, which needs pillow-heif, the extra corolla[heic]"
    )
    assert "pip install 'corolla[heic]'" in str(caught.value.remedy)


def test_a_file_that_is_hardly_a_header_ends_too_early() -> None:
    with pytest.raises(InvalidInput, match=r"the image cannot be decoded \(it ends too early\)"):
        decode(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_truncated_files_of_the_other_formats_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (decode, check):
            with pytest.raises(InvalidInput, match="cannot be decoded"):
                read(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF", "HEIF", "PNG"])
def test_the_limit_of_pixels_holds_for_every_format(kind: str) -> None:
    with pytest.raises(InvalidInput, match="12 x 8 = 96 pixels, more than the limit of 95"):
        decode(encode(picture(), kind), max_pixels=95)


# Orientation


def xmp(orientation: int, form: str = 'tiff:Orientation="{}"') -> str:
    inside = form.format(orientation)
    inside = (
        f"<rdf:Description>{inside}</rdf:Description>" if "<" in inside else f"<rdf:Description {inside}/>"
    )
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{inside}</rdf:RDF></x:xmpmeta>'


def with_xmp(kind: str, packet: str, **options: Any) -> bytes:
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet)
        return encode(picture(), kind, pnginfo=info, **options)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return encode(picture(), kind, xmp=packet.encode(), **lossless, **options)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_xmp_turns_the_image_upright(orientation: int, kind: str) -> None:
    data = with_xmp(kind, xmp(orientation))
    right = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert torch.equal(decode(data), from_array(right))
    assert np.array_equal(from_pillow(Image.open(io.BytesIO(data))), right)


@pytest.mark.parametrize("form", ["tiff:Orientation='{}'", "<tiff:Orientation>{}</tiff:Orientation>"])
def test_orientation_in_the_xmp_of_a_jpeg_is_read_in_every_spelling(form: str) -> None:
    assert decode(with_xmp("JPEG", xmp(6, form))).shape == (3, 12, 8)


def test_exif_counts_before_xmp() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    assert decode(with_xmp("PNG", xmp(6), exif=exif)).shape == (3, 8, 12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int) -> None:
    data = encode(picture(), "TIFF", tiffinfo={0x0112: orientation})
    right = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert torch.equal(decode(data), from_array(np.array(right)))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_an_avif_and_a_heic_are_turned_once(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encode(picture(64, 32), kind, exif=exif.tobytes(), quality=95))
    assert decoded.shape == (3, 64, 32)
    assert decoded[:, 40, 28].min() > 200  # white was above, and is on the right
    assert decoded[1, 0, 16] < 80  # red was on the left, and is above


# Very large photos


def photo(width: int = 1200, height: int = 900, **options: Any) -> bytes:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=2)
    return encode(Image.fromarray(pixels.astype(np.uint8)), "JPEG", quality=95, **options)


@pytest.mark.parametrize(("limit", "scale"), [(1_080_000, 1), (1_079_999, 2), (100_000, 4), (20_000, 8)])
def test_a_jpeg_above_the_limit_is_decoded_at_the_largest_scale_below_it(limit: int, scale: int) -> None:
    assert decode(photo(), max_pixels=limit).shape == (3, -(-900 // scale), 1200 // scale)


def test_a_photo_at_a_reduced_scale_is_the_same_to_the_model() -> None:
    data = photo()
    whole, reduced = sized(data, SMALL), sized(data, SMALL, max_pixels=300_000)
    assert (whole.int() - reduced.int()).abs().max() <= 3


def test_a_photo_is_not_reduced_below_what_the_model_sees() -> None:
    with pytest.raises(InvalidInput, match="1200 x 900 = 1,080,000 pixels, more than the limit of 20,000"):
        sized(photo(), SMALL.model_copy(update={"image_size": 224}), max_pixels=20_000)


def test_what_cannot_be_reduced_is_refused() -> None:
    for data in (photo(progressive=True), encode(picture(1200, 900), "PNG"), photo(12_000, 90)[:400]):
        with pytest.raises(InvalidInput, match=r"more than the limit of 1,000|cannot be decoded") as caught:
            decode(data, max_pixels=1000)
        assert caught.value.remedy


def test_checking_refuses_what_decoding_refuses() -> None:
    check(photo(), max_pixels=300_000)
    with pytest.raises(InvalidInput, match="cannot be decoded"):
        check(photo()[:-3000])
