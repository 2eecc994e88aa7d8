"""Tensor files of a remote store in a local folder, by the digest of what they hold, within a bound.

Several processes may share the folder, which is made when the first file is put. Nothing in it is trusted:
whoever reads a file computes its digest and removes a damaged one. A cache that cannot be written costs time,
and nothing else.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from platformdirs import user_cache_dir

from model_store.place.url import is_remote
from model_store.place.whole_file import write_whole
from petl_vit.errors import InvalidInput

_log = logging.getLogger(__name__)

MOST_BYTES = 10 * 2**30
"""The bound of a cache, unless another is given."""
_PATIENCE_S, _PAUSE_S = 1.0, 0.01
_OWN = 0o700  # what a store lets few read is not for everybody on this machine
_LOCK, _SUFFIX = ".lock", ".safetensors"


class _Entry(NamedTuple):
    used: float  # seconds since the epoch, as the file's time of modification
    size: int
    path: Path


class Cache:
    """A folder. The least recently used files leave it first.

    Attributes:
        folder: Where the files are; what other versions of this program left in it counts too.
        limit: Bytes of all files in it.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._trimmed = self._warned = False

    @classmethod
    def at(cls, folder: str | os.PathLike[str] | None, limit: int) -> Self | None:
        """The cache in a folder; None where there is no folder, or nothing may be kept in it.

        Raises:
            InvalidInput: The limit is negative.
        """
        if limit < 0:
            raise InvalidInput(f"{limit} is negative", field="cache_bytes", remedy="0 bytes keep nothing")
        return cls(Path(folder).expanduser(), limit) if folder is not None and limit else None

    @classmethod
    def of_user(
        cls, url: str | None, folder: str | os.PathLike[str] | None = None, limit: int = MOST_BYTES
    ) -> Self | None:
        """The cache of what a person runs over a store: without a folder the user's own, for a remote store.

        Args:
            url: Of the store.

        Raises:
            InvalidInput: The limit is negative.
        """
        return cls.at(folder or (_folder_of_user() if is_remote(url) else None), limit)

    def get(self, digest: str) -> bytes | None:
        """The bytes that were put for a digest; None where there are none."""
        if not self._trimmed:  # it may have been filled under another bound
            self._trimmed = True
            with suppress(OSError), self._exclusive(patience_s=0):
                self._make_room(0)
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
        if len(data) > self.limit:
            return
        try:
            self.folder.mkdir(_OWN, parents=True, exist_ok=True)
            with self._exclusive():
                path = self._path(digest)
                if not path.exists():
                    self._make_room(len(data))
                    with write_whole(path) as draft:
                        draft.write_bytes(data)
        except BlockingIOError:
            _log.info("another process writes to the cache %s: a file is not kept", self.folder)
        except OSError as error:
            if not self._warned:  # once is enough, also where small files find room and large ones do not
                _log.warning("the cache %s cannot be written, and is not filled: %s", self.folder, error)
            self._warned = True

    def remove(self, digest: str) -> None:
        """Forget what turned out to be damaged."""
        with suppress(OSError):
            self._path(digest).unlink()

    @property
    def size(self) -> int:
        """Bytes of all files in it now."""
        return sum(entry.size for entry in self._entries())

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}{_SUFFIX}"

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used until so many bytes fit; the lock is held."""
        for draft in self.folder.glob(f".*{_SUFFIX}.*"):  # of a killed writer, as only we hold the lock
            draft.unlink(missing_ok=True)
        entries = sorted(self._entries())
        free = self.limit - sum(entry.size for entry in entries)
        for entry in entries:
            if free >= needed:
                break
            entry.path.unlink(missing_ok=True)
            free += entry.size

    def _entries(self) -> Iterator[_Entry]:
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield _Entry(status.st_mtime, status.st_size, path)

    @contextmanager
    def _exclusive(self, patience_s: float | None = None) -> Iterator[None]:
        """Exclude other writers.

        Raises:
            BlockingIOError: One of them holds the lock for longer than this one waits.
        """
        end = time.monotonic() + (_PATIENCE_S if patience_s is None else patience_s)
        with open(self.folder / _LOCK, "ab") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(_PAUSE_S)
            yield


def _folder_of_user() -> Path | None:
    """The folder for what can be had again; None where the user has no home, as in some containers."""
    try:
        folder = Path(user_cache_dir("corolla", appauthor=False)) / "tensors"
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older versions of the library leave the `~`
