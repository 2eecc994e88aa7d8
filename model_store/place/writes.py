"""Conditional writes and deletions over a network, where an answer may be lost after the work was done.

Whoever repeats a conditional write after a lost answer finds their own object in the way. A write is
therefore repeated here and not in the HTTP client, and what stands in the way is compared with what was sent.
"""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import ObjectStore

if TYPE_CHECKING:
    from obstore import UpdateVersion  # exists for type checkers only

ATTEMPTS = 5
_FIRST_PAUSE_S, _ALL_S = 0.1, 60.0
_FINAL = (
    FileNotFoundError,
    InvalidPathError,
    NotImplementedError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)


class Writes:
    """Writes to one place.

    Args:
        backend: Repeats nothing by itself, where `attempts` is above 1.
        attempts: How often an operation is tried; none begins later than a minute after the first.
    """

    def __init__(self, backend: ObjectStore, *, attempts: int) -> None:
        self._backend = backend
        self._attempts = attempts

    def put(self, key: str, data: bytes, mode: "Literal['create', 'overwrite'] | UpdateVersion") -> bool:
        """Write an object whole; False where the mode's condition does not hold.

        Where an answer was lost and the object now holds the same bytes, it counts as written.

        Raises:
            BaseError, OSError: As obstore does, when the last attempt fails.
        """

        def attempt(doubtful: bool) -> bool:
            try:
                # One request: a multipart upload could not be conditional.
                self._backend.put(key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                if not doubtful:
                    return False
                try:
                    return bytes(self._backend.get(key).bytes()) == data
                except FileNotFoundError:  # deleted since
                    return mode == "create" and attempt(doubtful)
            return True

        return self._repeat(attempt)

    def delete(self, key: str) -> None:
        """Remove an object, if there is one.

        Raises:
            BaseError, OSError: As obstore does, when the last attempt fails.
        """

        def attempt(doubtful: bool) -> bool:
            with suppress(FileNotFoundError):
                self._backend.delete(key)
            return True

        self._repeat(attempt)

    def _repeat(self, attempt: Callable[[bool], bool]) -> bool:
        """What an attempt returns; it is told whether an earlier one may have done the work."""
        end = time.monotonic() + _ALL_S
        for number in range(self._attempts):
            try:
                return attempt(number > 0)
            except _FINAL:
                raise
            except (BaseError, OSError):
                if number + 1 == self._attempts or time.monotonic() > end:
                    raise
                time.sleep(_FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1.5))
        raise AssertionError("there is at least one attempt")
