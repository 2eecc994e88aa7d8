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
        path: As the user knows it: what the output says.
        file: Where it is; empty where a CSV's row has no path.
    """

    path: str
    file: str

    def read(self, max_bytes: int) -> bytes:
        """Its bytes.

        Raises:
            NotFound: There is no such file.
            InvalidInput: It cannot be read, is no file, or is larger than `max_bytes`.
        """
        if not self.file:
            raise InvalidInput("the row has no path")
        try:
            status = os.stat(self.file)
            if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
                raise InvalidInput("it is no file")
            if status.st_size > max_bytes:
                raise InvalidInput(f"{status.st_size:,} bytes, at most {max_bytes:,} are taken")
            return Path(self.file).read_bytes()
        except FileNotFoundError:
            raise NotFound("the file does not exist") from None
        except OSError as error:
            raise InvalidInput(f"the file cannot be read: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput("it is no path") from error  # one with a zero byte in it


def listed(given: Sequence[Path], *, column: str) -> list[Source]:
    """All images, in the order given; of a folder in the order of their paths.

    Args:
        given: Folders, which are searched with all that is in them; `.csv` files; images.
        column: The CSV files' column of paths, relative to the file.

    Raises:
        NotFound: One of them does not exist.
        InvalidInput: A CSV file or a folder cannot be read, has no such column, or nothing is found.
    """
    found = [source for path in given for source in _of(path, column)]
    if not found:
        raise InvalidInput(
            f"no image in {', '.join(map(str, given))}",
            field="sources",
            remedy=f"name a folder with {', '.join(_EXTENSIONS)} files, a .csv file with paths, or images",
        )
    return found


def _of(path: Path, column: str) -> Iterator[Source]:
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
            f"{path} is no CSV file in UTF-8: {error}", field="sources", remedy="save it as one"
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{path}: {error.strerror}", field="sources", remedy="name a readable file"
        ) from error
