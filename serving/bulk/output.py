"""Predictions as files: finished ones, written whole or not at all, and the rows of unfinished runs.

A row is a dict of plain values, the same in every format; what is nested is JSON in a CSV file.
"""

import csv
import fcntl
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from model_store.place.whole_file import write_whole
from petl_vit.errors import Conflict, InvalidInput, NotFound

Row = dict[str, Any]

COLUMNS = (
    "path",
    "label",
    "probability",
    "top",
    "agreement",
    "entropy",
    "mutual_information",
    "route",
    "adapters",
    "error",
    "members_asked",  # the newest last: readers of CSV files may count columns
)
PROBABILITIES = "probabilities"
_GROUP = 10_000
"""Rows that are in memory at once where a format is written in groups."""


class Output:
    """The file that a run is to write.

    Args:
        path: Ends in .jsonl, .csv or .parquet.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InvalidInput: Another ending, or a format whose library is not installed.
        NotFound: Its folder does not exist.
        Conflict: It exists.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path, self._write = path, _FORMATS.get(path.suffix.lower())
        if self._write is None:
            raise InvalidInput(
                f"{path} has no known format", field="out", remedy=f"end it in {', '.join(_FORMATS)}"
            )
        if self._write is _write_parquet:
            _pyarrow()
        if not path.parent.is_dir():
            raise NotFound(f"the folder {path.parent} does not exist", field="out", remedy="make it")
        if path.exists() and (path.is_dir() or not overwrite):
            raise Conflict(f"{path} exists", field="out", remedy="name another file, or give --overwrite")

    def write(self, rows: Iterable[Row], classes: Sequence[str]) -> None:
        """Writes all rows; the file appears once all are written.

        Args:
            classes: Those whose probabilities are a column; empty for no such column.
        """
        assert self._write is not None
        with _writing(self.path), write_whole(self.path) as draft:
            self._write(draft, rows, classes)


class Part:
    """The rows of an unfinished run, beside its output; a later run of the same images continues after them.

    Rows are stored in groups that went through the engine together, so that the rest is grouped, and
    therefore rounded, as it would have been.

    Args:
        out: The output.
        run: What two runs must share for the rows to be the same.
        group: Rows of a group.
        fresh: Whether to delete existing rows.

    Raises:
        Conflict: The rows are those of another run, or another process is writing them.
    """

    def __init__(self, out: Path, run: Mapping[str, Any], *, group: int, fresh: bool) -> None:
        self.path = out.with_name(f"{out.name}.part")
        self._group, self.rows = group, 0
        with _writing(self.path):
            self._file = self.path.open("ab+")
        try:
            self._lock()
            if fresh:
                self._file.truncate(0)
            self._resume(json.loads(json.dumps(run)))
        except BaseException:
            self._file.close()
            raise

    def append(self, rows: Sequence[Row]) -> None:
        """Adds the rows of one group."""
        with _writing(self.path):
            self._file.write("".join(f"{json.dumps(row)}\n" for row in rows).encode())
            self._file.flush()
        self.rows += len(rows)

    def __iter__(self) -> Iterator[Row]:
        """All stored rows."""
        with self.path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def remove(self) -> None:
        """Deletes the rows."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another run is writing {self.path}", field="out", remedy="wait for it, or name another file"
            ) from None

    def _resume(self, run: Row) -> None:
        """Counts the whole groups, removes an incomplete one, and starts a file that is new."""
        self._file.seek(0)
        header = self._file.readline()
        if not header.endswith(b"\n"):
            self._file.truncate(0)
            self.append([run])
            self.rows = 0
            return
        self._check(header, run)
        end = self._file.tell()
        for lines, line in enumerate(iter(self._file.readline, b""), start=1):
            if not line.endswith(b"\n"):
                break
            if lines % self._group == 0 or lines == run["images"]:
                end, self.rows = self._file.tell(), lines
        self._file.truncate(end)

    def _check(self, header: bytes, run: Row) -> None:
        try:
            before = json.loads(header)
            differ = [name for name in run if before[name] != run[name]]
        except (ValueError, KeyError, TypeError):
            differ = ["file"]
        if differ:
            raise Conflict(
                f"{self.path} belongs to an unfinished run with another {' and another '.join(differ)}",
                field="out",
                remedy="name another file, or give --overwrite to start again",
            )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns errors of the file system into errors that name the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror or error}",
            field="out",
            remedy="make room, or name another file; a later run continues where this one stopped",
        ) from error


# Formats


def _write_jsonl(path: Path, rows: Iterable[Row], classes: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _write_csv(path: Path, rows: Iterable[Row], classes: Sequence[str]) -> None:
    columns = [*COLUMNS, *([PROBABILITIES] if classes else [])]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _write_parquet(path: Path, rows: Iterable[Row], classes: Sequence[str]) -> None:
    arrow, parquet = _pyarrow()
    number, text = arrow.float64(), arrow.string()
    kinds = dict.fromkeys(COLUMNS, text) | dict.fromkeys(
        ("probability", "agreement", "entropy", "mutual_information"), number
    )
    kinds["members_asked"] = arrow.int64()
    kinds["top"] = arrow.list_(arrow.struct([("label", text), ("probability", number)]))
    kinds["adapters"] = arrow.list_(text)
    if classes:
        kinds[PROBABILITIES] = arrow.struct([(name, number) for name in classes])
    schema, remaining = arrow.schema(list(kinds.items())), iter(rows)
    # An open file, because the name may not be UTF-8.
    with path.open("wb") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(remaining, _GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))


_FORMATS: Mapping[str, Callable[[Path, Iterable[Row], Sequence[str]], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise InvalidInput(
            "Parquet needs pyarrow, which is not installed",
            field="out",
            remedy="run pip install 'corolla[parquet]', or write .csv or .jsonl",
        ) from None
