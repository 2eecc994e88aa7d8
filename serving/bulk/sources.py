"""Images to classify as a user names them: folders, CSV files with a column of paths, single files.

Knows paths and what can be read; knows nothing of formats or models.
"""

import csv
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from petl_vit.errors import InvalidInput, NotFound

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
_CLUTTER = "__MACOSX"


class Source(NamedTuple):
    """One image.

    Attributes:
        path: As the user wrote it; the output shows it.
        file: Where it is; empty where a CSV's row has no path.
    """

    path: str
    file: str

    def read(self, max_bytes: int) -> bytes:
        """Its bytes.

        Raises:
            NotFound: The file does not exist.
            InvalidInput: It cannot be read, is not a file, or is larger than `max_bytes`.
        """
        if not self.file:
            raise InvalidInput("the row has no path")
        try:
            status = os.stat(self.file)
            if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
                raise InvalidInput("it is not a file")
            if status.st_size > max_bytes:
                raise InvalidInput(f"it has {status.st_size:,} bytes, at most {max_bytes:,} are allowed")
            return Path(self.file).read_bytes()
        except FileNotFoundError:
            raise NotFound("the file does not exist") from None
        except OSError as error:
            raise InvalidInput(f"the file cannot be read: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput("it is not a path") from error  # it has a zero byte


def listed(paths: Sequence[Path], *, column: str) -> list[Source]:
    """All images in the order of `paths`, and within a folder in the order of their paths.

    Args:
        paths: Folders, which are searched with their subfolders; `.csv` files; images.
        column: The CSV files' column of paths, relative to the file.

    Raises:
        NotFound: One of them does not exist.
        InvalidInput: A CSV file or a folder cannot be read, has no such column, or there is no image.
    """
    sources = [source for path in paths for source in _sources(path, column)]
    if not sources:
        raise InvalidInput(
            f"no image in {', '.join(map(str, paths))}",
            field="sources",
            remedy=f"name a folder with {', '.join(_EXTENSIONS)} files, a .csv file with paths, or images",
        )
    return sources


def _sources(path: Path, column: str) -> Iterator[Source]:
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise NotFound(f"{path} does not exist", field="sources", remedy="name folders, .csv files or images")
    if path.suffix.lower() == ".csv":
        return _in_csv(path, column)
    return iter([Source(path=str(path), file=str(path))])


def _in_folder(folder: Path) -> Iterator[Source]:
    for path, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in sorted(files):
            if name.lower().endswith(_EXTENSIONS) and not _hidden(name):
                file = os.path.join(path, name)
                yield Source(path=file, file=file)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == _CLUTTER


def _refuse(error: OSError) -> None:
    raise InvalidInput(
        f"{error.filename}: {error.strerror}", field="sources", remedy="make the folder readable"
    ) from error


def _in_csv(path: Path, column: str) -> Iterator[Source]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if column not in columns:
                raise InvalidInput(
                    f"{path} has no column {column!r}",
                    field="column",
                    remedy=f"name one of {', '.join(columns)}" if columns else "write a header line",
                )
            for row in reader:
                name = row[column] or ""
                yield Source(path=name, file=str(path.parent / name) if name else "")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(
            f"{path} is not a CSV file in UTF-8: {error}", field="sources", remedy="save it as one"
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{path}: {error.strerror}", field="sources", remedy="name a readable file"
        ) from error
