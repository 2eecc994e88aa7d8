"""What is said of bytes that are no image."""

import base64

import pytest

from petl_vit.errors import InvalidInput
from petl_vit.preprocess import decode
from tests.serving.world import encoded

HEIC = b"\0\0\0\x18ftypheic"


@pytest.mark.parametrize("image", [encoded(0), encoded(0, "JPEG"), encoded(0, "WEBP"), HEIC + bytes(40)])
@pytest.mark.parametrize("before", [b"", b"data:image/png;base64,", b'"', b"\n"])
def test_base64_is_told_and_how_to_send_it(image: bytes, before: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"image: the image is base64 text; send the bytes"):
        decode(before + base64.b64encode(image))


def test_base64_for_urls_is_told_too() -> None:
    with pytest.raises(InvalidInput, match="base64"):
        decode(base64.urlsafe_b64encode(encoded(0, "JPEG")))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"https://example.com/cat.jpg", "the URL of an image; send the bytes of the file"),
        (b"s3://photos/cat.jpg", "the URL of an image"),
        (b"/data/photos/cat 1.jpg", "the name of a file; send the bytes"),
        (b"cat.png\n", "the name of a file"),
        (b"<!DOCTYPE html><html>", "a page of text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x93NUMPY\x01\x00", "NumPy file; send its array as a tensor"),
        (b"\x00\x01\x02", "not an image of a known format; convert it"),
        (b"no image at all, but a sentence.", "not an image of a known format"),
    ],
)
def test_what_it_seems_to_be_is_said(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decode(data)
