"""What was sent instead of an image: base64, a URL, a file's name, a web page. Told by the first bytes."""

import re

_BASE64 = re.compile(
    rb"\s*(data:[\w/+.-]+;base64,|[\"']?(/9j/|_9j_|iVBORw0KGg|UklGR|R0lGOD|SUkqA|TU0AK|AAAA..Z0eX))"
)
"""A data URL, or base64 of a JPEG, PNG, WebP, GIF, TIFF, HEIC or AVIF file."""
_URL = re.compile(rb"\s*(https?|s3|gs|file)://", re.IGNORECASE)
_NAME = re.compile(rb"[\w./\\ ~:-]{1,300}\.[A-Za-z0-9]{2,5}\s*\Z")
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)
_POINTER = b"version https://git-lfs"
_NUMPY = b"\x93NUMPY"
_DEFAULT = ("the bytes are not an image of a known format", "convert it to JPEG, PNG or WebP")


def explained(data: bytes) -> tuple[str, str]:
    """What bytes of no known format seem to be, and what to send: a problem and its remedy."""
    head = data[:400]
    if _BASE64.match(head):
        return (
            "the image is base64 text",
            "send the bytes that it stands for, as base64.b64decode returns them",
        )
    if _URL.match(head):
        return "it is the URL of an image", "send the bytes of the file; nothing is fetched"
    if len(data) <= 300 and _NAME.match(head):
        return "it is the name of a file", "send the bytes of the file"
    if _PAGE.match(head):
        return "it is a page of text, not an image", "look at what the download returned"
    if head.startswith(_POINTER):
        return "it is a pointer of Git LFS, not the image", "run `git lfs pull` where it came from"
    if head.startswith(_NUMPY):
        return "it is a NumPy file", "send its array as a tensor, or an image file"
    return _DEFAULT
