"""Deleting a version of an adapter, which no alias or named route may name.

`latest` does not prevent it: it moves to the newest version that remains, or goes with the last one.
"""

from dataclasses import dataclass

from model_store.format.records import NamedRoute
from model_store.names import LATEST
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.errors import Conflict


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
