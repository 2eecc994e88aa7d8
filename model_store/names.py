"""The names that people give, and the error for one that does not exist. Imports no torch."""

import codecs
import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from petl_vit.errors import InvalidInput, NotFound, near

NAME = r"[a-z][a-z0-9_-]{0,62}"
BACKBONE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}"
DIGEST = r"[0-9a-f]{64}"
BASE = "base"
LATEST = "latest"
_LISTED = 8


class AdapterId(NamedTuple):
    """What all versions of an adapter share."""

    task: str
    name: str

    def __str__(self) -> str:
        return f"{self.task}/{self.name}"


def is_name(text: str) -> bool:
    """Whether `text` may name a task, an adapter, an alias or a route."""
    return re.fullmatch(NAME, text) is not None


def check_name(text: str, field: str) -> str:
    """Return `text`, or refuse it before it becomes part of a key.

    Raises:
        InvalidInput: It is not a name.
    """
    if not is_name(text):
        raise InvalidInput(
            f"{text[:80]!r} is not a name",
            field=field,
            remedy="use a lower-case letter, then at most 62 lower-case letters, digits, '_' or '-'",
        )
    return text


def check_digest(text: str, field: str) -> str:
    """Return `text`, or refuse what is not 64 lower-case hexadecimal digits.

    Raises:
        InvalidInput: It is not a digest.
    """
    if re.fullmatch(DIGEST, text) is None:
        raise InvalidInput(f"{text[:80]!r} is not a digest of 64 lower-case hexadecimal digits", field=field)
    return text


def check_backbone_name(text: str) -> str:
    """Return `text`, or refuse it; a backbone's name is a label, never a part of a key.

    Raises:
        InvalidInput: It is not a backbone's name.
    """
    if re.fullmatch(BACKBONE_NAME, text) is None:
        raise InvalidInput(
            f"{text[:80]!r} is not a backbone's name",
            field="name",
            remedy="use at most 127 letters, digits, '.', '_' or '-', such as vit_small_patch16_224.mine",
        )
    return text


def not_found(problem: str, name: str, existing: Iterable[str], *, field: str, when_empty: str) -> NotFound:
    """Build the error for an unknown name: near matches first, else what exists, else how to start."""
    known = sorted(set(existing))
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    listed = f"there is {', '.join(known[:_LISTED])}{more}" if known else when_empty
    return NotFound(problem, field=field, remedy=near(name, known) or listed)


# Names that are not ours to choose: of classes, and of files


def class_name(text: str) -> str:
    """A class's name in its one spelling: Unicode's form NFC, without what is invisible around it.

    Systems spell one letter in different ways: macOS gives the umlaut of a folder's name as two characters.
    """
    return unicodedata.normalize("NFC", text).strip().strip("\ufeff\u200b\0").strip()


def differences(
    found: Iterable[str], expected: Iterable[str], *, whose: str, most: int = 5, subset: bool = False
) -> str:
    """The classes that only one of two lists has, those that are nearly the same beside each other.

    Args:
        whose: What the expected ones are called, for example `task`.
        subset: Whether no more than some of the expected ones have to be found.
    """
    extra, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    texts = []
    for name in [*extra]:
        matches = difflib.get_close_matches(name, missing, n=1, cutoff=0.6)
        if matches:
            texts.append("{} ({}: {})".format(*_told_apart(name, whose, matches[0])))
            extra.remove(name)
            missing.remove(matches[0])
    texts += sorted(extra if subset else extra + missing)
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _told_apart(name: str, whose: str, other: str) -> tuple[str, str, str]:
    """Both names, with codes for their letters where the letters of two alphabets may look the same."""
    if name.isascii() and other.isascii():
        return name, whose, other
    return ascii(name), whose, ascii(other)


def printable(name: str) -> str:
    """A file's name with the bytes that are not UTF-8 escaped, as in `caf\\xe9`."""
    try:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # half of a letter, which stands for no byte
        return name.encode(errors="backslashreplace").decode()


def check_printable(name: str, field: str) -> str:
    """Return `name`, or refuse a file's name that could not be recorded.

    Raises:
        InvalidInput: It is not UTF-8.
    """
    if printable(name) != name:
        raise InvalidInput(
            f"the name {printable(name)} is not UTF-8, so it cannot be recorded",
            field=field,
            remedy="rename it, for example with convmv",
        )
    return name


def text_of(data: bytes) -> str:
    """The text of a user's file: UTF-8, or UTF-16 where a byte-order mark says so.

    Raises:
        UnicodeDecodeError: It is neither.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")
