"""The names of a running server's store, changed through the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import JsonValue

from corolla.connection import connect, document
from corolla.flags import Connection
from corolla.names import Moved, asks
from model_store.format.records import Audit, NamedRoute
from model_store.resolution.named_route import Naming
from serving.client.admin import AdminClient


class ServerNames:
    """The names of a server's store, changed through the server; see `corolla.names.Names`."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None, expected: int | None
    ) -> Moved:
        done = self._admin.set_alias(adapter, alias, version, task=task or "", expected=expected)
        task_name, _, name = done.alias.adapter.partition("/")
        before, notes = done.previous_version or None, tuple(done.notes)
        return Moved(task=task_name, adapter=name, before=before, notes=notes)

    def routes(self, task: str | None) -> list[dict[str, JsonValue]]:
        states = self._admin.list_routes(task=task or "").routes
        return [_document(state) for state in states]

    def put_route(
        self,
        name: str,
        text: str,
        *,
        task: str | None,
        temperature: float | None,
        extrapolate: bool,
        follow: bool,
    ) -> Naming:
        done = self._admin.put_route(
            name, text, task=task or "", temperature=temperature, extrapolate=extrapolate, follow=follow
        )
        return Naming(
            route=_route(done.route),
            resolved=done.resolved,
            why=done.temperature_reason,
            shadows=done.shadows_adapter,
            notes=tuple(done.notes),
        )

    def delete_route(self, name: str, *, task: str | None) -> str:
        return self._admin.delete_route(name, task=task or "").task

    def history(self, name: str | None, *, task: str | None, limit: int) -> list[Audit]:
        changes = self._admin.list_changes(name or "", task=task or "", limit=limit).changes
        return [_audit(change) for change in changes]


def _route(message: Any) -> NamedRoute:
    return NamedRoute.of(**document(message))


def _document(state: Any) -> dict[str, JsonValue]:
    """A route of a server as `Names.routes` gives it."""
    now = document(state)
    cascade = state.route.HasField("cascade")
    return (
        {"cascade": None}
        | document(state.route)
        | {
            "follows": now["follows"],
            "answers": now["resolved"],
            "answers_at_temperature": now["temperature"] if now["resolved"] else None,
            "asks": asks(_route(state.route), void=state.thresholds_void) if cascade else "",
            "note": now["note"],
            "problem": now["problem"],
        }
    )


def _audit(change: Any) -> Audit:
    fields = document(change)
    for name in ("before_temperature", "after_temperature"):
        fields[name] = fields.get(name)
    return Audit.of(**fields)


@contextmanager
def server_names(connection: Connection) -> Iterator[ServerNames]:
    """The names of a running server."""
    with connect(connection) as client:
        yield ServerNames(AdminClient(client))
