"""Formats of image files, by their first bytes and by the ends of their names.

The bytes say what a file is; a name only says that it was meant to be an image.
"""

import re

HEAD_BYTES = 128
"""First bytes of a file that `format_of` needs."""

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"<svg": "SVG",
    b"DDS ": "DDS",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance",
    b"qoif": "QOI",
    b"FUJIFILMCCD-RAW": "camera raw",
    b"IIRO": "camera raw",
    b"IIRS": "camera raw",
    b"MMOR": "camera raw",
    b"IIU\0": "camera raw",
    b"FOVb": "camera raw",
}
_BRANDS = {
    "AVIF": frozenset({b"avif", b"avis"}),
    "HEIC": frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    "camera raw": frozenset({b"crx "}),
}
_DOCUMENTS = frozenset({"PDF"})
_BITMAP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_ENDING = re.compile(
    r"\.(3fr|apng|arw|avifs?|bmp|cr[23]|dds|dib|dng|eps|exr|gif|hdr|hei[cf]|heics|hif|icns|ico|j2k|jfif|jif|jp2|"
    r"jpe|jpe?g|jp[fx]|jxl|nef|nrw|orf|p[bgnp]m|pcx|pef|pjp|pjpeg|png|psd|raf|rw[2l]|sgi|sr2|srw|svg|tga|tiff?|"
    r"webp|x3f|xbm)",
    re.IGNORECASE,
)


def format_of(head: bytes) -> str | None:
    """The format of a file that begins so; None where the bytes are those of no known format."""
    if head[:4] == b"RIFF":
        return "WebP" if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":
        return _format_of_brands(head)
    if head[:2] == b"BM":
        # Text may begin so too.
        header = int.from_bytes(head[14:18], "little")
        return "BMP" if head[6:10] == b"\0\0\0\0" and header in _BITMAP_HEADERS else None
    if head[:4] == b"\0\0\x01\0":
        return "icon" if head[9:10] == b"\0" and 0 < int.from_bytes(head[4:6], "little") <= 64 else None
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and head[3:4] in b"#0123456789":
        return "PNM"
    if head[8:10] == b"CR" and head[:4] == b"II*\0":
        return "camera raw"
    return next((name for signature, name in _SIGNATURES.items() if head.startswith(signature)), None)


def _format_of_brands(head: bytes) -> str | None:
    """The format of an ISO media file: its major brand decides, then those that it is compatible with."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
    for brand in brands:
        for name, own in _BRANDS.items():
            if brand in own:
                return name
    return "HEIC" if brands[0] in (b"mif1", b"msf1", b"miaf") else None


def named_as_image(name: str) -> bool:
    """Whether a file of that name was meant to be an image."""
    return _ENDING.fullmatch(name[name.rfind(".") :]) is not None


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is an image, be it of a format that cannot be read."""
    return format_of(head) not in _DOCUMENTS | {None}
