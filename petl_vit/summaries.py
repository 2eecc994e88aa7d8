"""A summary of each PETL method for help and checks: its name, its title, its settings. No torch.

Read from summaries.json, which `make docs` writes from the methods. The table is valid only for the files
that it was written from: where a method file is new or changed, the summaries are read from the methods
themselves, which takes longer.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from petl_vit.errors import NotFound, near

TABLE = Path(__file__).with_name("summaries.json")
_METHODS = Path(__file__).with_name("methods")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setting(_Record):
    """One hyper-parameter; the method itself checks its limits."""

    name: str
    kind: Literal["bool", "int", "float", "str"]
    default: bool | int | float | str
    description: str


class Summary(_Record):
    """One method, as its class describes it."""

    name: str
    title: str
    paper: str
    foldable: bool
    learning_rate: float
    faster_if_short: bool
    drop_path: float
    trained: bool
    by_block: bool
    settings: tuple[Setting, ...]


class Table(_Record):
    """All methods, and the SHA-256 of the files that they were read from."""

    files: str
    methods: tuple[Summary, ...]


@cache
def summaries() -> dict[str, Summary]:
    """Every method by its name, sorted."""
    table = Table.model_validate_json(TABLE.read_bytes())
    if table.files != _files():
        table = current()
    return {method.name: method for method in table.methods}


def names() -> list[str]:
    """The name of every method that can be trained, sorted."""
    return [name for name, summary in summaries().items() if summary.trained]


def get(name: str) -> Summary:
    """The method of that name.

    Raises:
        NotFound: There is no such method; the remedy names near matches.
    """
    if name not in summaries():
        raise unknown(name, names())
    return summaries()[name]


def unknown(name: str, known: Sequence[str]) -> NotFound:
    """The error for the name of a method that does not exist."""
    remedy = near(name, known) or f"use one of {', '.join(known)}"
    return NotFound(f"there is no method {name!r}", field="method", remedy=remedy)


def current() -> Table:
    """The table as the methods are now; imports them."""
    from petl_vit import methods

    return Table(files=_files(), methods=tuple(_summary(method) for method in methods.registered()))


def _summary(method: Any) -> Summary:
    fields = method.model_fields if method.trained else {}
    return Summary(
        name=method.name,
        title=method.title,
        paper=method.paper,
        foldable=method.foldable,
        learning_rate=method.learning_rate,
        faster_if_short=method.faster_if_short,
        drop_path=method.drop_path,
        trained=method.trained,
        by_block=method.by_block,
        settings=tuple(_setting(name, field) for name, field in fields.items()),
    )


def _setting(name: str, field: FieldInfo) -> Setting:
    description, default = field.description or "", field.default
    if field.annotation in (bool, int, float):
        kind = field.annotation.__name__
    else:
        kind = "str"
        default = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return Setting.model_validate(
        {"name": name, "kind": kind, "default": default, "description": description}
    )


def _files() -> str:
    """SHA-256 of the names and contents of all method files."""
    sha = hashlib.sha256()
    for path in sorted(_METHODS.glob("*.py")):
        data = path.read_bytes()
        sha.update(f"{path.name} {len(data)}\n".encode() + data)
    return sha.hexdigest()
