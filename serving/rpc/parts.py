"""How many parts a message has, counted before it is parsed.

Two bytes on the wire can be an empty message, which takes some sixty in memory and far more as Python's
object: a message within the limit of bytes could take gigabytes. So the wire is walked first, as far as is
allowed.
"""

from functools import lru_cache

from google.protobuf.descriptor import Descriptor

from petl_vit.errors import InvalidInput

MOST_PARTS = 16_384
"""Far more than any message that is taken: 1,000 labels are some 6,000."""
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def check_parts(data: bytes, kind: Descriptor, most: int = MOST_PARTS) -> None:
    """Refuse a message of too many parts: fields, entries of repeated ones, and those of the messages in it.

    Packed numbers are one part. Of bytes that are no such message nothing is said; the parser says that.

    Raises:
        InvalidInput: It has more than `most`.
    """
    left = most
    if len(data) <= most:
        return
    waiting = [(0, len(data), kind)]
    try:
        while waiting:
            at, end, kind = waiting.pop()
            messages = _messages(kind)
            while at < end:
                left -= 1
                if left < 0:
                    raise InvalidInput(
                        f"the message has more than {most:,} parts",
                        field="message",
                        remedy="send what it asks in several calls",
                    )
                tag, at = _varint(data, at)
                wire = tag & 7
                if wire == _LENGTH:
                    length, at = _varint(data, at)
                    within = messages.get(tag >> 3)
                    if within is not None and length:
                        waiting.append((at, min(at + length, end), within))
                    at += length
                elif wire == _VARINT:
                    _, at = _varint(data, at)
                else:
                    at += {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(wire, 0)
    except IndexError:
        return


@lru_cache(maxsize=256)
def _messages(kind: Descriptor) -> dict[int, Descriptor]:
    """The fields that are messages, by number."""
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of the wire, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:
            return value, at
        shift += 7
