"""Files that are read again when they change, such as renewed certificates. No torch."""

import logging
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from petl_vit.errors import InvalidInput

_log = logging.getLogger(__name__)

_Content = TypeVar("_Content")


class RenewedFiles(Generic[_Content]):
    """What some files say, read again when they have changed; one thread at a time may ask.

    Files that cannot be used, as in the middle of a renewal, change nothing: what was read last goes on.

    Args:
        paths: The files.
        read: Reads all of them.
        what: What they are called in the log, such as `certificate server.pem`.

    Raises:
        InvalidInput: They cannot be used now.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], _Content], *, what: str) -> None:
        self._paths, self._read, self._what = tuple(paths), read, what
        self._seen, self._said = self._state(), ""
        self.content = read()

    def changed(self) -> bool:
        """Whether `content` is another than before; looks at the files."""
        state = self._state()
        if state == self._seen:
            return False
        try:
            content = self._read()
        except InvalidInput as error:
            if str(error) != self._said:
                _log.warning(
                    "the %s as it is now is not served, the one before goes on: %s", self._what, error
                )
            self._said = str(error)
            if not _passing(error):
                self._seen = state
            return False
        self._seen, self._said = state, ""
        if content == self.content:
            return False
        self.content = content
        _log.info("new connections get the renewed %s", self._what)
        return True

    def _state(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(state_of, self._paths))


def _passing(error: InvalidInput) -> bool:
    """Whether a file could not be read, which may work the next time, rather than says nothing of use."""
    cause = error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError | FileNotFoundError)


def state_of(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written again, or when Kubernetes replaces the link to it."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
