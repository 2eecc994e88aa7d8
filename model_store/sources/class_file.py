"""Class names in a file of the user's: text with one a line, or JSON as other tools write it."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model_store.names import text_of
from petl_vit.errors import InvalidInput, NotFound

_REMEDY = "write one name a line"
_Names = list[str] | dict[str, int] | dict[int, str]
_JSON: TypeAdapter[_Names] = TypeAdapter(_Names)


def read(path: Path) -> tuple[str, ...]:
    """The names in their order; of text, empty lines do not count.

    JSON is a list of names, or a table from names to places or from places to names (`class_to_idx` of
    torchvision and timm, `id2label` of transformers).

    Raises:
        NotFound: No such file.
        InvalidInput: It is not UTF-8 text, or JSON of another kind.
    """
    if not path.is_file():
        raise NotFound(f"{str(path)!r} is not a file", field="classes", remedy="check the path")
    try:
        text = text_of(path.read_bytes())
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name} is not UTF-8 text", field="classes", remedy=_REMEDY) from error
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, list | dict):
        return _of_json(document, path)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _of_json(document: object, path: Path) -> tuple[str, ...]:
    try:
        names = _JSON.validate_python(document)
    except ValidationError as error:
        raise InvalidInput(
            f"{path.name} is JSON, but not a list of names or a table of names and their places",
            field="classes",
            remedy=_REMEDY,
        ) from error
    if isinstance(names, list):
        return tuple(names)
    by_place = {place: name for name, place in _pairs(names)}
    if sorted(by_place) != list(range(len(names))):
        raise InvalidInput(
            f"the places in {path.name} are not 0 to {len(names) - 1}, each once",
            field="classes",
            remedy=_REMEDY,
        )
    return tuple(by_place[place] for place in range(len(names)))


def _pairs(names: dict[str, int] | dict[int, str]) -> Iterator[tuple[str, int]]:
    for key, value in names.items():
        if isinstance(key, str) and isinstance(value, int):
            yield key, value
        elif isinstance(key, int) and isinstance(value, str):
            yield value, key
