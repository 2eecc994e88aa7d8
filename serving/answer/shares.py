"""Shares of all images, chosen by what the images are: the same on every replica and every time."""

import hashlib

from serving.request import Image

_BITS = 53  # of a float's fraction


def place_of(image: Image) -> float:
    """A number in [0, 1) that an image's content alone decides, as if it were drawn evenly.

    An image is in a share of s where this is less than s.
    """
    content = image if isinstance(image, bytes) else image.tobytes()
    digest = hashlib.blake2b(content, digest_size=8).digest()
    place: float = (int.from_bytes(digest) >> (64 - _BITS)) / 2**_BITS
    return place
