"""What clients and `corolla.Store` can do, as tables of docs/python.md, from their docstrings."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import corolla

BEGIN, END = "<!-- methods of {}: made by `make docs` -->", "<!-- end of methods -->"
_PLACE = re.compile(rf"{BEGIN.format('(AdminClient|Client|Store)')}\n.*?{END}", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with its tables of methods as the classes are now."""
    return _PLACE.sub(lambda found: _table(found[1]), page)


def _table(name: str) -> str:
    rows = [f"| `{call}` | {does} |" for call, does in _methods(getattr(corolla, name))]
    return "\n".join([BEGIN.format(name), "", "| method | does |", "|---|---|", *rows, "", END])


def _methods(kind: type) -> Iterator[tuple[str, str]]:
    for owner in reversed(kind.__mro__[:-1]):
        for name, method in vars(owner).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                yield f"{name}({', '.join(_arguments(method))})", _sentence(method)


def _arguments(method: Callable[..., Any]) -> Iterator[str]:
    """Those without a default as they stand, and a mark for the others."""
    _, *parameters = inspect.signature(method).parameters.values()
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            yield parameter.name + ("=" if parameter.kind is parameter.KEYWORD_ONLY else "")
    if any(parameter.default is not parameter.empty for parameter in parameters):
        yield "..."


def _sentence(method: Callable[..., Any]) -> str:
    text = inspect.getdoc(method)
    assert text, f"{method.__qualname__} needs a docstring"
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
