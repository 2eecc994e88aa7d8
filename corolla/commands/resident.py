"""`corolla adapters resident|load|unload|pin|unpin|reload`: the adapters in a running server's memory."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from corolla import flags, tables
from corolla.connection import document, on_server
from corolla.flags import epilog
from serving.client.admin import AdminClient
from serving.client.blocking import Client

_COLUMNS = ("adapter", "method", "aliases", "memory", "slot", "in use", "last used", "")


def _one_adapter(command: Callable[..., Any]) -> Callable[..., Any]:
    """What commands about one adapter of a server take."""
    for decorate in (flags.as_json, on_server, flags.task(), click.argument("adapter")):
        command = decorate(command)
    return command


@click.command(
    epilog=epilog(
        "corolla adapters resident",
        "corolla adapters resident --all --task digits --server localhost:50051",
        "corolla adapters resident --json",
    )
)
@click.option("--all", "everything", is_flag=True, help="Also those that are only in the server's store.")
@flags.task_filter
@on_server
@flags.as_json
def resident(everything: bool, task: str | None, client: Client, as_json: bool) -> None:
    """List the adapters in a server's memory.

    With how much of it each takes, whether it is pinned, and when it was last used.
    """
    listing = AdminClient(client).list_adapters(task=task or "", resident_only=not everything)
    if as_json:
        return tables.print_json(document(listing))
    table = tables.table_of(*_COLUMNS)
    for state in listing.adapters:
        table.add_row(*_row(state))
    if listing.adapters:
        tables.print_table(table)
    for place, memory in (("in memory", listing.registered), ("in slots", listing.slots)):
        budget = f" of {tables.size(memory.budget_bytes)}" if memory.budget_bytes else ""
        click.echo(f"{place}: {memory.adapters} adapters, {tables.size(memory.bytes)}{budget}")


@click.command(
    epilog=epilog("corolla adapters load lora@prod --task digits", "corolla adapters load digits/lora:3")
)
@_one_adapter
def load(adapter: str, task: str | None, client: Client, as_json: bool) -> None:
    """Load an adapter into a server.

    Its first request is then as fast as the next.
    """
    _print(AdminClient(client).load_adapter(adapter, task=task or ""), "is in memory", as_json)


@click.command(epilog=epilog("corolla adapters unload digits/lora:2 --server localhost:50051"))
@_one_adapter
def unload(adapter: str, task: str | None, client: Client, as_json: bool) -> None:
    """Free the memory that an adapter takes in a server.

    A request that names it loads it again.
    """
    unloaded = AdminClient(client).unload_adapter(adapter, task=task or "")
    if as_json:
        return tables.print_json(document(unloaded))
    freed = f"unloaded, {tables.size(unloaded.freed_bytes)} are free"
    click.echo(
        f"{unloaded.name} is {freed if unloaded.was_loaded else 'not in memory, there was nothing to do'}"
    )


@click.command(epilog=epilog("corolla adapters pin lora@prod --task digits"))
@_one_adapter
def pin(adapter: str, task: str | None, client: Client, as_json: bool) -> None:
    """Load an adapter into a server, and never evict it."""
    _print(AdminClient(client).pin_adapter(adapter, task=task or ""), "is pinned", as_json)


@click.command(epilog=epilog("corolla adapters unpin lora@prod --task digits"))
@_one_adapter
def unpin(adapter: str, task: str | None, client: Client, as_json: bool) -> None:
    """Let a server evict a pinned adapter."""
    _print(AdminClient(client).unpin_adapter(adapter, task=task or ""), "is not pinned", as_json)


@click.command("reload", epilog=epilog("corolla adapters reload --server localhost:50051"))
@on_server
@flags.as_json
def reload_names(client: Client, as_json: bool) -> None:
    """Make a server read its store's names again.

    It says what changed. Aliases and routes are followed without it, within --refresh-s.
    """
    reloaded = AdminClient(client).reload()
    if as_json:
        return tables.print_json(document(reloaded))
    for change in reloaded.changes:
        before = f", was {change.before}" if change.before else ""
        click.echo(f"{change.name}: {change.after or 'gone'}{before}")
    if not reloaded.changes:
        click.echo("nothing has changed")


def _print(state: Any, outcome: str, as_json: bool) -> None:
    if as_json:
        return tables.print_json(document(state))
    size = tables.size(state.registered_bytes)
    click.echo(f"{state.name} {outcome}, {size}, digest {state.digest[:12]}")


def _row(state: Any) -> tuple[str, ...]:
    notes = ["pinned"] * state.pinned + ["not in the store"] * (not state.stored) + [state.problem]
    if state.HasField("bf16_difference"):
        notes.append(f"bf16 differs by {state.bf16_difference:.1%}" + ", so in fp32" * state.exact)
    last_used = ""
    if state.HasField("last_used"):
        last_used = datetime.fromtimestamp(state.last_used.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return (
        state.name,
        state.method,
        ", ".join(state.aliases),
        tables.size(state.registered_bytes) if state.registered else "",
        _slot(state),
        str(state.in_use) if state.registered else "",
        last_used,
        ", ".join(filter(None, notes)),
    )


def _slot(state: Any) -> str:
    if not state.in_slot:
        return ""
    return tables.size(state.slot_bytes) if state.slot_bytes else "yes"
