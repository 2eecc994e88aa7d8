"""Which way up an image file says that it is: by its EXIF, else by its XMP.

Twenty lines read one tag, because Pillow's parser reads all of them and warns about damaged ones, and
warnings cannot be silenced per thread.
"""

import re
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TAG = 0x0112
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")
_SWAPS_SIDES = 5
"""From this orientation on, rows are columns."""
_FLIPS: dict[int, tuple[int, ...]] = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}
"""The axes that are flipped, after the sides are swapped; 1 is upright."""


def upright(pixels: NDArray[np.uint8], source: Image.Image) -> NDArray[np.uint8]:
    """Pixels [H,W,3] of a loaded image file, turned as the file says: [H,W,3] or [W,H,3]."""
    if source.format in ("TIFF", "HEIF"):  # their readers have turned it, and leave what they read
        return pixels
    orientation = _of_exif(_exif(source)) or _of_xmp(source)
    if orientation not in _FLIPS:
        return pixels
    turned = pixels.transpose(1, 0, 2) if orientation >= _SWAPS_SIDES else pixels
    return np.ascontiguousarray(np.flip(turned, _FLIPS[orientation]))


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
