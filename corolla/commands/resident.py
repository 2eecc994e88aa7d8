"""`corolla adapters resident|load|unload|pin|unpin|reload`: a running server's adapters, for people.

Also the server's side of `--server` for aliases and named routes, see `corolla.store_names`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from pydantic import JsonValue
from rich.table import Table

from corolla.reach import Reach
from corolla.server_flags import as_json_option, connect, document, on_server, print_json, print_table
from model_store.format.records import NamedRoute
from model_store.resolution.named_route import Naming
from serving.client.admin import AdminClient
from serving.client.blocking import Client

_task = click.option("--task", default="", metavar="TASK", help="Task; may be left out where there is one.")

_COLUMNS = ("adapter", "method", "aliases", "memory", "slot", "in use", "last used", "")


def _epilog(*examples: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


@click.command(
    epilog=_epilog(
        "corolla adapters resident",
        "corolla adapters resident --all --task digits --server localhost:50051",
        "corolla adapters resident --json",
    )
)
@click.option("--all", "everything", is_flag=True, help="Also those that are only in the server's store.")
@click.option("--task", default="", metavar="TASK", help="Only those of one task.")
@on_server
@as_json_option
def resident(everything: bool, task: str, client: Client, as_json: bool) -> None:
    """List the adapters in a server's memory, and what they take of it."""
    listing = AdminClient(client).list_adapters(task=task, resident_only=not everything)
    if as_json:
        return print_json(listing)
    table = Table(*_COLUMNS, box=None, pad_edge=False, header_style="bold")
    for state in listing.adapters:
        table.add_row(*_row(state))
    if listing.adapters:
        print_table(table, markup=False, emoji=False, highlight=False)
    for what, memory in (("in memory", listing.registered), ("in slots", listing.slots)):
        budget = f" of {_size(memory.budget_bytes)}" if memory.budget_bytes else ""
        click.echo(f"{what}: {memory.adapters} adapters, {_size(memory.bytes)}{budget}")


@click.command(
    epilog=_epilog("corolla adapters load lora@prod --task digits", "corolla adapters load digits/lora:3")
)
@click.argument("adapter")
@_task
@on_server
@as_json_option
def load(adapter: str, task: str, client: Client, as_json: bool) -> None:
    """Load ADAPTER into a server, so that its first request is not slow."""
    _say(AdminClient(client).load_adapter(adapter, task=task), "is in memory", as_json)


@click.command(epilog=_epilog("corolla adapters unload digits/lora:2 --server localhost:50051"))
@click.argument("adapter")
@_task
@on_server
@as_json_option
def unload(adapter: str, task: str, client: Client, as_json: bool) -> None:
    """Free the memory that ADAPTER takes in a server; a request that names it loads it again."""
    unloaded = AdminClient(client).unload_adapter(adapter, task=task)
    if as_json:
        return print_json(unloaded)
    click.echo(f"{unloaded.name} is unloaded, {_size(unloaded.freed_bytes)} are free")


@click.command(epilog=_epilog("corolla adapters pin lora@prod --task digits"))
@click.argument("adapter")
@_task
@on_server
@as_json_option
def pin(adapter: str, task: str, client: Client, as_json: bool) -> None:
    """Load ADAPTER into a server, and keep it there whatever else is asked for."""
    _say(AdminClient(client).pin_adapter(adapter, task=task), "is pinned", as_json)


@click.command(epilog=_epilog("corolla adapters unpin lora@prod --task digits"))
@click.argument("adapter")
@_task
@on_server
@as_json_option
def unpin(adapter: str, task: str, client: Client, as_json: bool) -> None:
    """Let a pinned ADAPTER go when a server needs its memory."""
    _say(AdminClient(client).unpin_adapter(adapter, task=task), "is no longer pinned", as_json)


@click.command("reload", epilog=_epilog("corolla adapters reload --server localhost:50051"))
@on_server
@as_json_option
def reload_names(client: Client, as_json: bool) -> None:
    """Make a server forget what names meant, and ask its store again; say what changed.

    Aliases and routes are followed without it.
    """
    reloaded = AdminClient(client).reload()
    if as_json:
        return print_json(reloaded)
    for change in reloaded.changes:
        before = f", was {change.before}" if change.before else ""
        click.echo(f"{change.name}: {change.after or 'gone'}{before}")
    if not reloaded.changes:
        click.echo("nothing has changed")


class ServerNames:
    """The names of a server's store, changed through the server; see `corolla.store_names.Names`."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None, expected: int | None
    ) -> tuple[str, str, int | None]:
        done = self._admin.set_alias(adapter, alias, version, task=task or "", expected=expected)
        home, _, name = done.alias.adapter.partition("/")
        return home, name, done.previous_version or None

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
def server_names(server: str, reach: Reach) -> Iterator[ServerNames]:
    """The names of a running server."""
    with connect(server, reach) as client:
        yield ServerNames(AdminClient(client))


def _say(state: Any, what: str, as_json: bool) -> None:
    if as_json:
        return print_json(state)
    click.echo(f"{state.name} {what}, {_size(state.registered_bytes)}, digest {state.digest[:12]}")


def _row(state: Any) -> tuple[str, ...]:
    notes = ["pinned"] * state.pinned + ["not in the store"] * (not state.stored) + [state.problem]
    if state.HasField("bf16_difference"):
        notes.append(f"bf16 differs by {state.bf16_difference:.1%}" + ", so in fp32" * state.exact)
    last = ""
    if state.HasField("last_used"):
        last = datetime.fromtimestamp(state.last_used.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return (
        state.name,
        state.method,
        ", ".join(state.aliases),
        _size(state.registered_bytes) if state.registered else "",
        _slot(state),
        str(state.in_use) if state.registered else "",
        last,
        ", ".join(filter(None, notes)),
    )


def _slot(state: Any) -> str:
    if not state.in_slot:
        return ""
    return _size(state.slot_bytes) if state.slot_bytes else "yes"


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"
