"""Which way up an image file says that it is: by its EXIF, else by its XMP.

Twenty lines read one tag, because Pillow's parser reads all of them and warns about damaged ones, and
warnings cannot be silenced per thread.
"""

import re
import struct

from PIL import Image

_TAG = 0x0112
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """Pixels of a loaded image file, turned as the file says."""
    if source.format in ("TIFF", "HEIF"):  # their readers have turned it, and leave what they read
        return pixels
    orientation = _of_exif(_exif(source)) or _of_xmp(source)
    transpose = _TRANSPOSES.get(orientation)
    return pixels if transpose is None else pixels.transpose(transpose)


def _exif(image: Image.Image) -> bytes:
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        return exif
    profile = image.info.get("Raw profile type exif")  # how ImageMagick stores it in a PNG
    if not isinstance(profile, str):
        return b""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _of_exif(exif: bytes) -> int:
    """The orientation tag of the first directory, 0 where there is none or the tags are damaged."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _TAG:
                code = {1: "B", 4: "I"}.get(kind, "H")
                return int(struct.unpack_from(f"{order}{code}", tiff, entry + 8)[0])
    except struct.error:
        pass
    return 0


def _of_xmp(image: Image.Image) -> int:
    for name in ("xmp", "XML:com.adobe.xmp"):
        packet = image.info.get(name)
        data = packet.encode(errors="replace") if isinstance(packet, str) else packet
        match = _XMP.search(data) if isinstance(data, bytes) else None
        if match is not None:
            return int(match[1])
    return 0
