"""Files that appear whole or not at all, for whatever is written outside a store."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def write_whole(path: Path, *, mode: int = 0o666, replace: bool = True) -> Iterator[Path]:
    """A draft beside a file, for the block to write; it becomes the file when the block ends well.

    When the block fails, the draft is gone and the file is as it was. Data reaches the disk before its name.

    Args:
        path: The file. Its folder exists.
        mode: Permissions of a new file, before the umask.
        replace: Whether to replace an existing file; otherwise that stays, and the draft is removed.

    Raises:
        OSError: The draft cannot be created, or cannot take its place.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            # Unlike a rename, a link never replaces: of two writers at once, the second finds the first's.
            with suppress(FileExistsError):
                os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(path: Path) -> None:
    """Remove the drafts that killed writers of a file left beside it."""
    for draft in path.parent.glob(f".{path.name}.*"):
        draft.unlink(missing_ok=True)
