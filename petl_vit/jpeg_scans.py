"""How many scans a JPEG file has: a decoder keeps the coefficients of several, and reads all of them.

Each scan of a progressive image costs as much as decoding the image, and may be ten bytes long.
"""

import re
from typing import NamedTuple

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_AFTER_DATA = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_COMPONENTS = 7
"""Where a frame's number of components stands, after the start of its segment."""


class Scans(NamedTuple):
    """The scans of a file.

    Attributes:
        several: Whether a decoder has to keep the whole image's coefficients, 6 bytes a pixel in colour.
        count: At most one more than was asked for; 1 where a decoder reads the first alone.
    """

    several: bool
    count: int


def scans_of(data: bytes, most: int) -> Scans:
    """The scans of a JPEG file, counted up to one more than `most`; of a damaged one, those before that."""
    components, several, count, at, pattern = 0, False, 0, 0, _MARKER
    while (match := pattern.search(data, at)) is not None:
        kind, start = match[1][0], match.end()
        if kind == _END or count > most:
            break
        if kind in _ALONE:
            at = start
            continue
        if kind in _FRAMES:
            several |= kind in _PROGRESSIVE
            components = data[start + _COMPONENTS] if start + _COMPONENTS < len(data) else 0
        elif kind == _SCAN:
            count += 1
            in_scan = data[start + 2] if start + 2 < len(data) else 0
            several |= in_scan < components
            if not several:
                break
        at = start + max(2, int.from_bytes(data[start : start + 2], "big"))
        pattern = _AFTER_DATA if kind == _SCAN else _MARKER
    return Scans(several, count)
