"""Tables of images and labels: CSV with paths, Parquet with paths or with the images themselves.

Paths are relative to the table's file. A column `split` says which part of the set a row belongs to.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_files.left_out import LeftOut
from model_store.names import class_name, printable, text_of
from petl_vit.errors import InvalidInput, near
from training.data.listed import Listing, Read, read_file
from training.data.reading import Reading
from training.data.records import INSIDE, Dataset, listed
from training.data.source_parts import JOIN, SourceParts, by_usual_names

ENDINGS = (".csv", ".tsv", ".parquet")
IMAGE_COLUMNS = (
    "image",
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "img",
)
LABEL_COLUMNS = ("label", "class", "labels", "class_name", "category")
_SPLIT = "split"
_SEPARATORS = ",;\t|"
_TWICE = "listed twice"
_NO_LABEL = "without a label"
_NO_IMAGE = "without an image"
_SHOWN = 8
_NUMBER = re.compile(r"-?[0-9]{1,99}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Attributes:
        number: As people count: the line in a CSV, else from 1.
        image: A path, or the bytes of a file; empty where there is none.
        label: Empty where there is none.
    """

    number: int
    image: str | bytes
    label: str
    split: str


class Table:
    """A table in a file."""

    def __init__(self, path: str, field: str, reading: Reading) -> None:
        self.origin, self._field, self._reading = path, field, reading
        read = _parquet if path.lower().endswith(".parquet") else _csv
        self._classes, self._rows, self._noun = read(path, field, reading)
        if not self._rows:
            raise InvalidInput(f"{path} has no rows", field=field, remedy="give it one row for each image")
        self.names = tuple(sorted({row.split for row in self._rows} - {""}))

    def parts(self) -> SourceParts | None:
        return by_usual_names(self.origin, self.names)

    def dataset(self, names: Sequence[str]) -> Dataset:
        chosen = [row for row in self._rows if not names or row.split in names]
        left_out = LeftOut()
        rows = self._complete(chosen, left_out)
        classes = self._classes or class_names(row.label for row in self._rows if row.label)
        place = {name: number for number, name in enumerate(classes)}
        origin = f"{self.origin}{INSIDE}{JOIN.join(names)}" if names else self.origin
        contents, labels = dict[str, bytes](), dict[str, int]()
        first = dict[str, Row]()
        for row in rows:
            if isinstance(row.image, bytes):
                key = f"{self._noun} {row.number}"
                contents[key] = row.image
            else:
                key = self._relative(row.image)
                if key in first:
                    self._check_again(first[key], row)
                    left_out.add(_TWICE, printable(key))
                    continue
            first[key], labels[key] = row, place[row.label]
        listing = Listing(
            origin=origin,
            classes=classes,
            labels=labels,
            read=self._reader(contents),
            left_out=left_out,
            named=not contents,
        )
        return listing.dataset(self._field, self._reading)

    def _complete(self, rows: Sequence[Row], left_out: LeftOut) -> list[Row]:
        """The rows that have an image and a label.

        Raises:
            InvalidInput: Some have not, and are not to be skipped; names them.
        """
        bad = [(row, _NO_LABEL if row.image else _NO_IMAGE) for row in rows if not (row.image and row.label)]
        if bad and not self._reading.skip_bad:
            shown = ", ".join(f"{self._noun} {row.number} is {reason}" for row, reason in bad[:_SHOWN])
            more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise InvalidInput(
                f"{len(bad)} of {len(rows)} rows of {self.origin} cannot be used: {shown}{more}",
                field=self._field,
                remedy="complete them, or go on without them by --skip-bad",
            )
        for row, reason in bad:
            left_out.add(reason, f"{self._noun} {row.number}")
        return [row for row in rows if row.image and row.label]

    def _check_again(self, first: Row, row: Row) -> None:
        """Refuses a path with two labels."""
        if first.label != row.label:
            raise InvalidInput(
                f"{self.origin} gives {printable(str(row.image))} the label {first.label!r} in {self._noun} "
                f"{first.number}, and {row.label!r} in {self._noun} {row.number}",
                field=self._field,
                remedy="correct one of them",
            )

    def _relative(self, path: str) -> str:
        """A path as seen from the table, so that the same images are the same set wherever they are."""
        path = path.replace("\\", "/")
        folder = os.path.dirname(os.path.abspath(self.origin))
        inside = os.path.relpath(os.path.join(folder, path), folder).replace(os.sep, "/")
        return os.path.abspath(path) if os.path.isabs(path) and inside.startswith("../") else inside

    def _reader(self, contents: dict[str, bytes]) -> Read:
        folder = Path(self.origin).parent
        return lambda key: contents[key] if key in contents else read_file(folder / key, self._field)


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes of labels: in order of their numbers where all are numbers, else of the alphabet."""
    names = set(labels)
    numbers = all(_NUMBER.fullmatch(name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def chosen_column(
    columns: Sequence[str], wanted: str, usual: Sequence[str], what: str, origin: str, field: str
) -> str:
    """The column that a user names, else the first of the usual names, in whatever capitals.

    Args:
        what: `image` or `label`.

    Raises:
        InvalidInput: There is none; lists the columns.
    """
    if wanted:
        if wanted in columns:
            return wanted
        raise InvalidInput(
            f"{origin} has no column {wanted!r}",
            field=f"{what}_column",
            remedy=near(wanted, columns) or f"it has {listed(columns)}",
        )
    lower = {name.strip().lower(): name for name in reversed(columns)}
    for name in usual:
        if name in lower:
            return lower[name]
    raise InvalidInput(
        f"{origin} has no column {what!r}; its columns are {listed(columns)}",
        field=field,
        remedy=f"name the one that is meant with --{what}-column",
    )


def _csv(path: str, field: str, reading: Reading) -> tuple[tuple[str, ...], list[Row], str]:
    """The classes, of which a CSV knows none, the rows, and what a row is called."""
    try:
        text = text_of(Path(path).read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} cannot be read ({error})", field=field, remedy="save it as UTF-8"
        ) from error
    separator, header = _header(text, path, field)
    columns = [name.strip() for name in header]
    image = columns.index(chosen_column(columns, reading.image_column, IMAGE_COLUMNS, "image", path, field))
    label = columns.index(chosen_column(columns, reading.label_column, LABEL_COLUMNS, "label", path, field))
    split = [name.lower() for name in columns].index(_SPLIT) if _SPLIT in map(str.lower, columns) else None
    rows = []
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        next(cells for cells in lines if any(cell.strip() for cell in cells))  # the header
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                raise InvalidInput(
                    f"line {lines.line_num} of {path} has {len(cells)} cells for {len(columns)} columns",
                    field=field,
                    remedy=f"put a cell that holds {separator!r} into quotation marks",
                )
            cells += [""] * (len(columns) - len(cells))
            rows.append(
                Row(
                    number=lines.line_num,
                    image=cells[image].strip(),
                    label=class_name(cells[label]),
                    split=cells[split].strip() if split is not None else "",
                )
            )
    except csv.Error as error:
        raise InvalidInput(
            f"line {lines.line_num} of {path} cannot be read ({error})",
            field=field,
            remedy="check its quotation marks",
        ) from error
    _check_split(rows, split is not None, path, field)
    return (), rows, "line"


def _header(text: str, path: str, field: str) -> tuple[str, list[str]]:
    """The separator and the names of the columns."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    if not line:
        raise InvalidInput(
            f"{path} is empty", field=field, remedy="give it a header and a row for each image"
        )
    separator = max(_SEPARATORS, key=line.count)
    try:
        header = next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error as error:
        raise InvalidInput(f"the header of {path} cannot be read ({error})", field=field) from error
    for cell in header:
        if cell.strip() and (Path(path).parent / cell.strip()).is_file():
            raise InvalidInput(
                f"the first line of {path} names the image {cell.strip()!r}, and no columns",
                field=field,
                remedy=f"begin it with a line such as image{separator}label",
            )
    return separator, header


def _parquet(path: str, field: str, reading: Reading) -> tuple[tuple[str, ...], list[Row], str]:
    """The classes where the file names them, the rows, and what a row is called."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InvalidInput(
            f"{path} needs the package pyarrow", field=field, remedy="pip install 'corolla[parquet]'"
        ) from error
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # its errors have no common class
        raise InvalidInput(
            f"{path} cannot be read ({error})", field=field, remedy="check that it is a Parquet file"
        ) from error
    columns = file.schema_arrow.names
    image = chosen_column(columns, reading.image_column, IMAGE_COLUMNS, "image", path, field)
    label = chosen_column(columns, reading.label_column, LABEL_COLUMNS, "label", path, field)
    split = next((name for name in columns if name.lower() == _SPLIT), None)
    table = file.read(columns=[image, label, *([split] if split else [])])
    names = _names_of_labels(file.schema_arrow.metadata or {}, label)
    images, labels = table[image].to_pylist(), table[label].to_pylist()
    splits = table[split].to_pylist() if split else [""] * len(images)
    rows = [
        Row(
            number=number,
            image=_image(value, path, image, field),
            label=label_text(value_of_label, names, f"row {number} of {path}", field),
            split=str(part or "").strip(),
        )
        for number, (value, value_of_label, part) in enumerate(
            zip(images, labels, splits, strict=True), start=1
        )
    ]
    _check_split(rows, split is not None, path, field)
    return names, rows, "row"


def label_text(value: Any, names: Sequence[str], what: str, field: str) -> str:
    """A label as the name of its class; empty where there is none, as -1 says in sets of Hugging Face.

    Raises:
        InvalidInput: It is no text and no whole number, or a number without a name.
    """
    if value is None:
        return ""
    if names and isinstance(value, int):
        if value >= len(names):
            raise InvalidInput(
                f"{what} has the label {value} for {len(names)} classes",
                field=field,
                remedy="check the labels",
            )
        return names[value] if value >= 0 else ""
    if isinstance(value, str | int):
        return class_name(str(value))
    raise InvalidInput(
        f"{what} has the label {str(value)[:80]!r}, which is neither text nor a whole number",
        field=field,
        remedy="name another column with --label-column",
    )


def _image(value: Any, path: str, column: str, field: str) -> str | bytes:
    """The image of a cell: bytes, a path, or both as Hugging Face writes them."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or isinstance(value, str | bytes):
        return value or ""
    raise InvalidInput(
        f"the column {column!r} of {path} holds neither paths nor the bytes of image files",
        field=field,
        remedy="name another column with --image-column",
    )


def _names_of_labels(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """The classes that Hugging Face's `datasets` names in a Parquet file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(map(class_name, features[label]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()


def _check_split(rows: Sequence[Row], has_split: bool, path: str, field: str) -> None:
    """Refuses rows that are in no part where others are."""
    bad = [row.number for row in rows if has_split and not row.split]
    if bad:
        raise InvalidInput(
            f"{len(bad)} rows of {path} have an empty split, the first of them {bad[0]}",
            field=field,
            remedy="give every row its split, or none",
        )
