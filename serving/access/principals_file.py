"""The file of principals: JSON, read again when it changes, written whole. No torch, no gRPC."""

import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.place.whole_file import write_whole
from petl_vit.errors import CorollaError, InvalidInput
from serving.access.principals import ANONYMOUS, Principal

FIELD = "principals"
_MOST_BYTES = 16 * 2**20
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

_REMEDY = "correct it there, or write it by `corolla tokens`"

_log = logging.getLogger(__name__)


class Principals(BaseModel):
    """All principals of a server.

    Attributes:
        principals: Their names differ, and so do the ids of all tokens and the names in all certificates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    principals: Annotated[tuple[Principal, ...], Field(max_length=10_000)] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """The principals of a file.

        Raises:
            InvalidInput: It cannot be read, others may write it, or it does not say what it should.
        """
        try:
            with path.open("rb") as file:
                _check_mode(path, os.fstat(file.fileno()).st_mode)
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise InvalidInput(
                f"{path} cannot be read: {(error.strerror or str(error)).lower()}",
                field=FIELD,
                remedy="make it with `corolla tokens create`",
            ) from error
        if len(data) > _MOST_BYTES:
            raise InvalidInput(f"{path} has more than {_MOST_BYTES >> 20} MiB", field=FIELD)
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Self:
        """The principals that a file's bytes say.

        Raises:
            InvalidInput: Names the file, and the field that is wrong; never what stands there.
        """
        try:
            document = json.loads(data, object_pairs_hook=partial(_once, path))
        except InvalidInput:
            raise
        except (ValueError, RecursionError) as error:
            # The words of the error would quote the file.
            where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
            raise InvalidInput(f"{path} is not JSON{where}", field=FIELD, remedy=_REMEDY) from None
        try:
            read = cls.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the document"
            problem = first["msg"][:1].lower() + first["msg"][1:]  # a pattern in it keeps its capitals
            raise InvalidInput(f"{path}: {place}: {problem}", field=FIELD, remedy=_REMEDY) from None
        read.check(path)
        return read

    def check(self, path: Path) -> None:
        """Refuses names that two principals share.

        Raises:
            InvalidInput: Names the first.
        """
        for what, names in (
            ("principal", (p.name for p in self.principals)),
            ("token", (token.id for p in self.principals for token in p.tokens)),
            ("certificate", (name for p in self.principals for name in p.certificates)),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    problem = f"{path}: the {what} {name!r} is there {count} times"
                    raise InvalidInput(problem, field=FIELD, remedy="keep one of them")
                if what == "principal" and name == ANONYMOUS.name:
                    raise InvalidInput(
                        f"{path}: {name!r} is the name of callers without a token", field=FIELD
                    )

    def write(self, path: Path) -> None:
        """Writes the file whole, for its owner alone; a file that is there keeps its owner and its readers.

        Raises:
            InvalidInput: It cannot be written, or two principals share a name.
        """
        self.check(path)
        text = self.model_dump_json(indent=2, exclude_defaults=False, exclude_none=True)
        try:
            with write_whole(path, mode=0o600) as draft:
                draft.write_text(f"{text}\n")
                _keep_readers(path, draft)
        except OSError as error:
            problem = f"{path} cannot be written: {(error.strerror or str(error)).lower()}"
            raise InvalidInput(problem, field=FIELD) from error


def _once(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of the file; a field that is there twice would take back silently what the first one says."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            problem = f"{path}: a field {name[:40]!r} is there {count} times in one object"
            raise InvalidInput(problem, field=FIELD, remedy="keep one of them")
    return dict(pairs)


class PrincipalsFile:
    """The principals of a file, read again when it has changed.

    A damaged file changes nothing: the last good one goes on.

    Raises:
        InvalidInput: It cannot be used at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen, self._said = _state(path), ""
        self.principals = Principals.read(path).principals

    def changed(self) -> Iterable[Principal] | None:
        """The principals, if they are others than before; None where they are not. Blocking."""
        state = _state(self._path)
        if state == self._seen:
            return None
        try:
            principals = Principals.read(self._path).principals
        except CorollaError as error:
            if state is None or not isinstance(error.__cause__, OSError):
                self._seen = state  # else it may be read the next time, as once files can be opened again
            if str(error) != self._said:
                _log.warning("the principals on disk are not used, those before stay: %s", error)
            self._said = str(error)
            return None
        self._seen, self._said = state, ""
        if principals == self.principals:
            return None
        _log.info("the %d principals of %s are used from now on", len(principals), self._path)
        self.principals = principals
        return principals


def _check_mode(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode) and mode & _OTHERS_MAY_WRITE:
        raise InvalidInput(
            f"others may write {path}, and so give themselves any right",
            field=FIELD,
            remedy=f"chmod go-w {path}",
        )


def _keep_readers(path: Path, draft: Path) -> None:
    """Gives a draft the owner and the readers of the file that it replaces: a server may be another user."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    ours = draft.stat()
    if (before.st_uid, before.st_gid) != (ours.st_uid, ours.st_gid):
        os.chown(draft, before.st_uid, before.st_gid)
    draft.chmod(stat.S_IMODE(before.st_mode) & ~_OTHERS_MAY_WRITE | 0o600)


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_mode
