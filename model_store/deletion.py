"""Deleting a version of an adapter, which no alias or named route may name; and a task, or a version of one.

The references of routes that a deleted adapter was in go with it.

`latest` does not prevent it: it moves to the newest version that remains, or goes with the last one.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from model_store.format.records import Manifest, NamedRoute, TaskRecord
from model_store.names import LATEST
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.errors import Conflict, NotFound

_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """The deleted version, and where `latest` points now; None if no version remains."""

    adapter: str
    latest: int | None


def delete(store: Store, task: str, name: str, version: int) -> Deleted:
    """Delete a version for good. Its number is not used again.

    An alias or route that is put at the same moment may be left without its version; using it is an error.

    Raises:
        NotFound: No such version.
        Conflict: An alias or a named route names it; lists all of them.
    """
    check(store, task, name, version)
    with suppress(NotFound):  # where a deletion that was begun goes on
        store.references.remove(store.adapters.manifest(task, name, version).digest)
    return Deleted(adapter=f"{task}/{name}:{version}", latest=store.adapters.remove(task, name, version))


def check(store: Store, task: str, name: str, version: int) -> None:
    """Raise what `delete` would raise; deletes nothing."""
    holders = names_of(store, task, name, version)
    if holders:
        raise Conflict(
            f"{task}/{name}:{version} is still named by {', '.join(holders)}",
            field="adapter",
            remedy="move these aliases with `corolla adapters alias`, and put or delete these routes, first",
        )


@dataclass(frozen=True, kw_only=True)
class TaskDeletion:
    """Versions of a task, and what goes with them.

    Attributes:
        adapters: The versions of adapters that belong to them.
        routes: The named routes that go because nothing of the task remains.
    """

    records: Sequence[TaskRecord]
    adapters: Sequence[Manifest]
    routes: Sequence[NamedRoute]


def task_deletion(
    store: Store, records: Sequence[TaskRecord], *, with_adapters: bool = False
) -> TaskDeletion:
    """What deleting versions of one task would delete; deletes nothing.

    Args:
        with_adapters: Whether adapters and named routes of the task may go too.

    Raises:
        Conflict: Adapters or named routes belong to it, or a named route of another task needs it.
    """
    task, digests = records[0].spec.name, {record.digest for record in records}
    whole = digests >= {record.digest for record in store.tasks.versions(task)}
    manifests = [
        store.adapters.manifest(*adapter, version)
        for adapter, versions in store.adapters.published(task).items()
        for version in versions
    ]
    manifests = [manifest for manifest in manifests if manifest.task_digest in digests]
    routes = [route for route in store.routes.list() if whole and _needs(route, task)]
    held = [f"route {route.name!r} of task {route.task!r}" for route in routes if route.task != task]
    if not whole:
        held += [n for m in manifests for n in names_of(store, m.task, m.name, m.version) if "route" in n]
    if held:
        raise Conflict(
            f"task {task!r} is still named by {', '.join(dict.fromkeys(held))}",
            field="task",
            remedy="put or delete these routes first",
        )
    if (manifests or routes) and not with_adapters:
        holders = [*map(str, manifests), *(f"route {route.name!r}" for route in routes)]
        more = f" and {len(holders) - _LISTED} more" if len(holders) > _LISTED else ""
        raise Conflict(
            f"{', '.join(holders[:_LISTED])}{more} belong to it",
            field="task",
            remedy="delete these first, or delete them with the task by --with-adapters",
        )
    return TaskDeletion(records=records, adapters=manifests, routes=routes)


def delete_task(store: Store, deletion: TaskDeletion) -> None:
    """Delete versions of a task for good, with what `task_deletion` listed.

    Killed at any point, the task is there or is not; the same again ends what was begun.
    """
    for route in deletion.routes:
        store.routes.delete(route.task, route.name)
    digests = [manifest.digest for manifest in deletion.adapters]
    store.references.remove(*digests, *(record.digest for record in deletion.records))
    for manifest in deletion.adapters:
        store.adapters.drop_aliases(manifest.task, manifest.name, manifest.version)
        store.adapters.remove(manifest.task, manifest.name, manifest.version)
    for record in deletion.records:
        store.tasks.remove(record)


def _needs(route: NamedRoute, task: str) -> bool:
    """Whether a route is of a task, or names an adapter or the base of it."""
    return route.task == task or any(ref.task == task for ref in route.parsed().adapters)


def names_of(store: Store, task: str, name: str, version: int) -> list[str]:
    """The aliases except `latest`, and the named routes of any task, that mean this version now."""
    aliases = store.adapters.aliases(task, name)
    names = [f"alias {alias!r}" for alias, v in sorted(aliases.items()) if v == version and alias != LATEST]
    return names + [
        f"route {route.name!r} of task {route.task!r}"
        for route in store.routes.list()
        if any(_means(ref, route, task, name, version, aliases) for ref in route.parsed().adapters)
    ]


def _means(
    ref: AdapterRef, route: NamedRoute, task: str, name: str, version: int, aliases: dict[str, int]
) -> bool:
    if ref.is_base or (ref.task or route.task, ref.name) != (task, name):
        return False
    return version == (ref.version or aliases.get(ref.alias or LATEST))
