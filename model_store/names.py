"""The names that people give, and the error for one that does not exist. Imports no torch."""

import re
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
