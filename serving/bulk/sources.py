"""Images to classify as a user names them: folders, CSV files with a column of paths, single files.

Knows paths and what can be read; knows nothing of models.
"""

import csv
import io
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from image_files.folder import images_below
from image_files.left_out import LeftOut
from model_store.names import printable, text_of
from petl_vit.errors import InvalidInput, NotFound


class Source(NamedTuple):
    """One image.

    Attributes:
        path: As the user wrote it, with bytes that are not UTF-8 escaped; the output shows it.
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


class Listing(NamedTuple):
    """Images to classify, and what of the folders is not among them."""

    images: list[Source]
    left_out: LeftOut


def listed(paths: Sequence[Path], *, column: str) -> Listing:
    """All images in the order of `paths`, and within a folder in the order of their paths.

    Args:
        paths: Folders, which are searched with their subfolders; `.csv` files; images.
        column: The CSV files' column of paths, relative to the file.

    Raises:
        NotFound: One of them does not exist.
        InvalidInput: A CSV file or a folder cannot be read, has no such column, or there is no image.
    """
    left_out = LeftOut()
    images = [source for path in paths for source in _sources(path, column, left_out)]
    if not images:
        reasons = f" (left out: {left_out})" if left_out else ""
        raise InvalidInput(
            f"no image in {', '.join(printable(str(path)) for path in paths)}{reasons}",
            field="sources",
            remedy="name a folder with images, a .csv file with paths, or images",
        )
    return Listing(images, left_out)


def _sources(path: Path, column: str, left_out: LeftOut) -> Iterator[Source]:
    if path.is_dir():
        below = images_below(str(path), left_out, _refuse)
        return (_source(os.path.join(path, image)) for image in below.images)
    if not path.exists():
        raise NotFound(
            f"{printable(str(path))} does not exist",
            field="sources",
            remedy="name folders, .csv files or images",
        )
    if path.suffix.lower() == ".csv":
        return _in_csv(path, column)
    return iter([_source(str(path))])


def _source(file: str) -> Source:
    return Source(path=printable(file), file=file)


def _refuse(error: OSError) -> NoReturn:
    raise InvalidInput(
        f"{printable(str(error.filename))}: {error.strerror}",
        field="sources",
        remedy="make the folder readable",
    ) from error


def _in_csv(path: Path, column: str) -> Iterator[Source]:
    try:
        reader = csv.DictReader(io.StringIO(text_of(path.read_bytes()), newline=""))
        columns = reader.fieldnames or []
        if column not in columns:
            raise InvalidInput(
                f"{printable(str(path))} has no column {column!r}",
                field="column",
                remedy=f"name one of {', '.join(columns)}" if columns else "write a header line",
            )
        for row in reader:
            name = row[column] or ""
            yield Source(path=name, file=_file_of(path.parent, name) if name else "")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(
            f"{printable(str(path))} is not a CSV file in UTF-8: {error}",
            field="sources",
            remedy="save it as one",
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{printable(str(path))}: {error.strerror}", field="sources", remedy="name a readable file"
        ) from error


def _file_of(folder: Path, name: str) -> str:
    """The file that a list names: as it is written, else with the slashes and letters of this system."""
    slashes = name.replace("\\", "/")
    spelt = (unicodedata.normalize("NFC", slashes), unicodedata.normalize("NFD", slashes))
    files = [str(folder / one) for one in (name, slashes, *spelt)]
    return next((file for file in files if os.path.exists(file)), files[0])
