"""The files that commands read and write. Each is written whole or not at all; none is replaced unasked."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from model_store.place.whole_file import write_whole
from petl_vit.errors import Conflict, InvalidInput, NotFound

T = TypeVar("T")


def read(path: Path, field: str = "path") -> bytes:
    """The bytes of a file that a user named.

    Raises:
        NotFound: It does not exist.
        InvalidInput: It cannot be read.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist", field=field, remedy="check the path")
    return _reported(path, field, path.read_bytes)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse a path that `write` would refuse.

    Raises:
        Conflict: A file exists there, and is not to be replaced.
        InvalidInput: It is a folder.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder", field="out", remedy="name a file")
    if path.exists() and not overwrite:
        raise Conflict(f"{path} exists", field="out", remedy="choose another, or add --overwrite")


def write(path: Path, data: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all.

    Raises:
        Conflict: A file exists there, and is not to be replaced.
        InvalidInput: It is a folder, or cannot be written.
    """
    check_free(path, overwrite)

    def replace() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as draft:
            draft.write_bytes(data)

    _reported(path, "out", replace)


def write_secret(path: Path, data: bytes) -> None:
    """Write a file whole that its owner alone may read, in the place of any other.

    Raises:
        InvalidInput: It cannot be written.
    """

    def replace() -> None:
        with write_whole(path, mode=0o600) as draft:
            draft.write_bytes(data)

    _reported(path, "out", replace)


def write_folder(folder: Path, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Write the files of a folder, once all of their paths are known to be free."""
    for name in files:
        check_free(folder / name, overwrite)
    for name, data in files.items():
        write(folder / name, data, overwrite)


def _reported(path: Path, field: str, act: Callable[[], T]) -> T:
    try:
        return act()
    except OSError as error:
        problem = f"{path} cannot be read or written ({error.strerror})"
        raise InvalidInput(problem, field=field, remedy="check the path") from error
