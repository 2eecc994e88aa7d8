"""What to say when something is not in a store: near matches, else what there is, else how to start."""

from collections.abc import Iterable, Sequence

from model_store.names import not_found
from petl_vit.errors import NotFound

NO_BACKBONES = "import one with `corolla backbones import`"
NO_ADAPTERS = "train one with `corolla train`"
_LISTED = 16


def backbone(ref: str, known: Iterable[str]) -> NotFound:
    return not_found(f"no backbone {ref!r}", ref, known, field="backbone", when_empty=NO_BACKBONES)


def task(name: str, known: Iterable[str]) -> NotFound:
    return not_found(f"no task {name!r}", name, known, field="task", when_empty=NO_ADAPTERS)


def adapter(task: str, name: str, known: Iterable[str]) -> NotFound:
    return not_found(
        f"no adapter {name!r} in task {task!r}",
        name,
        known,
        field="adapter",
        when_empty=f"the task has none yet, {NO_ADAPTERS}",
    )


def named_route(task: str, name: str) -> NotFound:
    return NotFound(
        f"{name!r} is a named route of task {task!r}, and no adapter",
        field="adapter",
        remedy=f"write it alone, as {name}, for task {task}; within a route write what it stands for",
    )


def adapter_or_route(task: str, name: str, known: Iterable[str]) -> NotFound:
    return not_found(
        f"no adapter or named route {name!r} in task {task!r}",
        name,
        known,
        field="adapter",
        when_empty=NO_ADAPTERS,
    )


def version(task: str, name: str, version: int, known: Sequence[int]) -> NotFound:
    return NotFound(
        f"adapter {name!r} of task {task!r} has no version {version}",
        field="version",
        remedy=f"there is {', '.join(map(str, known[-_LISTED:]))}",
    )


def alias(task: str, name: str, alias: str, known: Iterable[str], newest: int) -> NotFound:
    return not_found(
        f"adapter {name!r} of task {task!r} has no alias {alias!r}",
        alias,
        known,
        field="alias",
        when_empty=f"write {name}:{newest}, or set it with `corolla adapters alias`",
    )


def route(task: str, name: str, known: Iterable[str]) -> NotFound:
    return not_found(
        f"no route {name!r} in task {task!r}",
        name,
        known,
        field="route",
        when_empty="save one with `corolla routes put`",
    )
