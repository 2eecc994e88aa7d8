"""The names of a running server's store, changed through the server."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import JsonValue

from corolla.connection import connect, document
from corolla.flags import Connection
from model_store.format.records import NamedRoute
from model_store.resolution.named_route import Naming
from serving.client.admin import AdminClient


class ServerNames:
    """The names of a server's store, changed through the server; see `corolla.names.Names`."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None, expected: int | None
    ) -> tuple[str, str, int | None]:
        done = self._admin.set_alias(adapter, alias, version, task=task or "", expected=expected)
        task_name, _, name = done.alias.adapter.partition("/")
        return task_name, name, done.previous_version or None

    def routes(self, task: str | None) -> list[dict[str, JsonValue]]:
        states = self._admin.list_routes(task=task or "").routes
        return [document(state.route) | {"problem": state.problem} for state in states]

    def put_route(
        self, name: str, text: str, *, task: str | None, temperature: float | None, extrapolate: bool
    ) -> Naming:
        done = self._admin.put_route(
            name, text, task=task or "", temperature=temperature, extrapolate=extrapolate
        )
        return Naming(
            route=NamedRoute.of(**document(done.route)),
            resolved=done.resolved,
            why=done.temperature_reason,
            shadows=done.shadows_adapter,
        )

    def delete_route(self, name: str, *, task: str | None) -> str:
        return self._admin.delete_route(name, task=task or "").task


@contextmanager
def server_names(connection: Connection) -> Iterator[ServerNames]:
    """The names of a running server."""
    with connect(connection) as client:
        yield ServerNames(AdminClient(client))
