"""Files of true labels: a CSV with a header, or JSON lines, with one label on each line. No torch, no gRPC.

Every line is read before the first label is sent: a mistake in the last line is known at once.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from petl_vit.errors import InvalidInput, near

T = TypeVar("T")

TRUTHS = ("class_name", "class_index", "any_of", "unknown")
COLUMNS = ("prediction_id", *TRUTHS, "source", "revision", "labelled_at")
_FIELD = "file"
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0", "")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One label of a file.

    Attributes:
        number: Of its line, from 1.
        truth: As `corolla.Label` has it.
        source, revision: None where the line has none.
    """

    number: int
    prediction_id: str
    truth: str | int | list[str | int] | None
    source: str | None
    revision: int | None
    labelled_at: datetime | None


def read(data: bytes, name: str, sources: tuple[str, ...]) -> list[Line]:
    """The labels of a file.

    Args:
        name: What errors call it.
        sources: Those that there are.

    Raises:
        InvalidInput: A line is not a label, or there is none; names the line and the column.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not UTF-8 text", field=_FIELD, remedy="save it as UTF-8") from error
    rows = _json_lines(text, name) if text.lstrip().startswith("{") else _csv_rows(text, name)
    lines = [_Row(name, number, row).line(sources) for number, row in rows]
    if not lines:
        raise InvalidInput(f"{name} has no label", field=_FIELD, remedy=_EXAMPLE)
    return lines


_EXAMPLE = "write a CSV whose first line is prediction_id,class_name, or JSON lines with the same names"


def _json_lines(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            problem = f"{name}:{number}: not JSON ({error})"
            raise InvalidInput(problem, field=_FIELD, remedy="write one object on each line") from error
        if not isinstance(row, dict):
            raise InvalidInput(f"{name}:{number}: not an object", field=_FIELD, remedy=_EXAMPLE)
        _check_columns(row, f"{name}:{number}")
        yield number, {column: value for column, value in row.items() if value is not None}


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header = text.partition("\n")[0]
    delimiter = next((mark for mark in (",", "\t", ";") if mark in header), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
        _check_columns(columns, f"{name}:1")
        if "prediction_id" not in columns or not set(TRUTHS) & {*columns}:
            problem = f"{name}:1: the first line does not name the columns prediction_id and class_name"
            raise InvalidInput(problem, field=_FIELD, remedy=_EXAMPLE)
        reader.fieldnames = columns
        for row in reader:
            if None in row or None in row.values():
                problem = f"{name}:{reader.line_num}: not as many columns as the first line"
                raise InvalidInput(problem, field=_FIELD, remedy="quote a class that has a comma")
            yield reader.line_num, {column: value for column, value in row.items() if value.strip()}
    except csv.Error as error:
        raise InvalidInput(f"{name}:{reader.reader.line_num}: not CSV ({error})", field=_FIELD) from error


def _check_columns(columns: "Mapping[str, Any] | list[str]", where: str) -> None:
    for column in columns:
        if column not in COLUMNS:
            remedy = near(column, COLUMNS, most=1) or f"there are {', '.join(COLUMNS)}"
            raise InvalidInput(f"{where}: no label has {column[:80]!r}", field=_FIELD, remedy=remedy)


class _Row:
    """One line; its cells are text in a CSV, and values in JSON."""

    def __init__(self, name: str, number: int, row: Mapping[str, Any]) -> None:
        self._where, self._number, self._row = f"{name}:{number}", number, row

    def line(self, sources: tuple[str, ...]) -> Line:
        source = self._cell("source", str.strip)
        if source is not None and source not in sources:
            remedy = near(source, sources) or f"use one of {', '.join(sources)}"
            raise self._refused(f"{source[:80]!r} is not a source", remedy)
        prediction_id = self._cell("prediction_id", str.strip)
        if not prediction_id:
            raise self._refused("no prediction_id", "take it from the answer")
        return Line(
            number=self._number,
            prediction_id=prediction_id,
            truth=self._truth(),
            source=source,
            revision=self._cell("revision", _whole),
            labelled_at=self._cell("labelled_at", datetime.fromisoformat),
        )

    def _truth(self) -> str | int | list[str | int] | None:
        given = [name for name in TRUTHS if name in self._row]
        if "unknown" in given and not self._cell("unknown", _flag):
            given.remove("unknown")
        if len(given) != 1:
            said = "says nothing of the class" if not given else f"has {' and '.join(given)}"
            raise self._refused(f"the label {said}", f"give one of {', '.join(TRUTHS)}")
        match given[0]:
            case "class_name":
                return self._cell("class_name", str)
            case "class_index":
                return self._cell("class_index", _whole)
            case "any_of":
                return self._cell("any_of", _classes)
        return None

    def _cell(self, column: str, read: Callable[[Any], T]) -> T | None:
        if column not in self._row:
            return None
        value = self._row[column]
        try:
            return read(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise self._refused(f"{column} {str(value)[:80]!r} cannot be read", _FORMS.get(column)) from error

    def _refused(self, problem: str, remedy: str | None) -> InvalidInput:
        return InvalidInput(f"{self._where}: {problem}", field=_FIELD, remedy=remedy)


_FORMS = {
    "class_name": "write text",
    "class_index": "write a whole number from 0",
    "any_of": "write a list of names or numbers; in a CSV names with | between them",
    "unknown": "write true or false",
    "revision": "write a whole number from 0",
    "labelled_at": "write a time such as 2026-11-26T18:30:00Z",
}


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise ValueError
    number = int(value)
    if number >= 2**32:
        raise ValueError
    return number


def _flag(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in (*_YES, *_NO):
        raise ValueError
    return text in _YES


def _classes(value: Any) -> list[str | int]:
    several = value.split("|") if isinstance(value, str) else value
    if not isinstance(several, list):
        raise TypeError
    return [each.strip() if isinstance(each, str) else _whole(each) for each in several]
