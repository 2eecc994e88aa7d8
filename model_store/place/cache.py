"""Tensor files of a remote store in a local folder, by the digest of what they hold, within a bound.

Several processes may share the folder. Nothing in it is trusted: whoever reads a file computes its digest
and removes a damaged one. A cache that cannot be written costs time, and nothing else.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from model_store.place.whole_file import write_whole
from petl_vit.errors import CorollaError, InvalidInput

_log = logging.getLogger(__name__)
_PATIENCE_S, _PAUSE_S = 1.0, 0.01
_LOCK, _SUFFIX = ".lock", ".safetensors"


class _Entry(NamedTuple):
    used: float  # seconds since the epoch, as the file's time of modification
    size: int
    path: Path


class Cache:
    """The folder. The least recently used files leave it first.

    Args:
        folder: Exists.
        limit: Bytes of all files in it.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._broken = False

    @classmethod
    def open(cls, folder: Path, limit: int) -> Self:
        """Open a folder, created when missing; what other versions of this program left in it counts too.

        Raises:
            InvalidInput: The limit is below one byte.
            CorollaError: The folder cannot be created or written.
        """
        if limit < 1:
            raise InvalidInput(f"{limit} bytes hold nothing", field="cache_bytes", remedy="give at least 1")
        cache = cls(folder.expanduser(), limit)
        try:
            cache._folder.mkdir(parents=True, exist_ok=True)
            with suppress(BlockingIOError), cache._exclusive():
                cache._make_room(0)
        except OSError as error:
            raise CorollaError(
                f"the folder {folder} cannot be written ({error.strerror})",
                field="cache",
                remedy="choose another folder, or leave the cache out",
            ) from error
        return cache

    def get(self, digest: str) -> bytes | None:
        """The bytes that were put for a digest; None where there are none."""
        path = self._path(digest)
        with suppress(OSError):
            data = path.read_bytes()
            with suppress(OSError):  # evicted meanwhile, or the folder is read-only
                os.utime(path)
            return data
        return None

    def put(self, digest: str, data: bytes) -> None:
        """Keep verified bytes; not where they are larger than the bound, or cannot be written.

        Nor where another process has the folder for long: whoever has read them does not wait for it.
        """
        if len(data) > self._limit:
            return
        try:
            with self._exclusive():
                path = self._path(digest)
                if not path.exists():
                    self._make_room(len(data))
                    with write_whole(path) as draft:
                        draft.write_bytes(data)
            self._broken = False
        except OSError as error:
            if not self._broken:
                _log.warning("the cache %s cannot be written, and is not filled: %s", self._folder, error)
            self._broken = True

    def remove(self, digest: str) -> None:
        """Forget what turned out to be damaged."""
        with suppress(OSError):
            self._path(digest).unlink()

    @property
    def size(self) -> int:
        """Bytes of all files in it now."""
        return sum(entry.size for entry in self._entries())

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}{_SUFFIX}"

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used until so many bytes fit; the lock is held."""
        for draft in self._folder.glob(f".*{_SUFFIX}.*"):  # of a killed writer, as only we hold the lock
            draft.unlink(missing_ok=True)
        entries = sorted(self._entries())
        free = self._limit - sum(entry.size for entry in entries)
        for entry in entries:
            if free >= needed:
                break
            entry.path.unlink(missing_ok=True)
            free += entry.size

    def _entries(self) -> Iterator[_Entry]:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield _Entry(status.st_mtime, status.st_size, path)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude other writers.

        Raises:
            BlockingIOError: One of them holds the lock for longer than this one waits.
        """
        end = time.monotonic() + _PATIENCE_S
        with open(self._folder / _LOCK, "ab") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(_PAUSE_S)
            yield
