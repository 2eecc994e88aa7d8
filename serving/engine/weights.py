"""The weights of tasks: what each gets of a busy engine beside the others. Operators write them to a file."""

import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from petl_vit.errors import InvalidInput, near
from serving.engine.fair_queue import Party

_LEAST, _MOST = 1e-3, 1e3


class TaskWeights:
    """Weights by the names of tasks; a task that none of them matches has 1.

    Args:
        weights: A name may have wildcards (`birds-*`); one without goes first, then the first that matches.
    """

    def __init__(self, weights: Mapping[str, float] = MappingProxyType({})) -> None:
        self._weights = weights
        self._parties: dict[str, Party] = {}

    @classmethod
    def read(cls, file: str | None) -> Self:
        """From a TOML file with a table `[tasks]`; None is no file.

        Raises:
            InvalidInput: It cannot be read, or says something that cannot be; names it.
        """
        if file is None:
            return cls()
        try:
            document = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InvalidInput(f"{file} cannot be read: {reason.lower()}", field="weights") from error
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput(f"{file} is not TOML: {error}", field="weights") from error
        return cls(dict(_checked(document, file)))

    def __bool__(self) -> bool:
        return bool(self._weights)

    def party(self, task: str) -> Party:
        """A task as the queue knows it; the task has to exist, since it is remembered."""
        known = self._parties.get(task)
        if known is None:
            matching = (weight for name, weight in self._weights.items() if fnmatchcase(task, name))
            weight = self._weights.get(task) or next(matching, 1.0)
            known = self._parties[task] = Party(task, weight)
        return known

    def unused(self, tasks: Iterable[str]) -> list[str]:
        """A sentence on each name that matches none of these tasks."""
        known = set(tasks)
        names = [name for name in self._weights if not any(fnmatchcase(task, name) for task in known)]
        return [f"no task {name!r} is stored: {near(name, known, most=1) or 'it may come'}" for name in names]


def _checked(document: dict[str, Any], file: str) -> Iterable[tuple[str, float]]:
    remedy = 'write [tasks] and below it a line for each task, as in "birds" = 4'
    for name in document:
        if name != "tasks":
            raise InvalidInput(f"{file}: {name!r} is not known", field="weights", remedy=remedy)
    tasks = document.get("tasks", {})
    if not isinstance(tasks, dict):
        raise InvalidInput(f"{file}: tasks is not a table", field="weights", remedy=remedy)
    for name, weight in tasks.items():
        number = not isinstance(weight, bool) and isinstance(weight, int | float)
        if not number or not _LEAST <= weight <= _MOST:
            raise InvalidInput(
                f"{file}: the weight of {name!r} is {weight!r}",
                field="weights",
                remedy=f"write a number from {_LEAST:g} to {_MOST:g}; a task that is not named has 1",
            )
        yield name, float(weight)
