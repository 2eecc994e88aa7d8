"""How commands print: tables for people, one JSON document for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

_WHOLE = frozenset({"name", "digest", "task", "adapter"})
"""Columns that people copy from: they stay whole in a narrow terminal."""


def listing(
    documents: Sequence[Mapping[str, Any]],
    as_json: bool,
    *,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    when_empty: str,
) -> None:
    """Print records: the documents as JSON, or the rows as a table, or what to do where there are none."""
    if as_json:
        return print_json(documents)
    if not rows:
        return click.echo(when_empty)
    table = table_of(*columns)
    for row in rows:
        table.add_row(*row)
    print_table(table)


def show(document: Mapping[str, Any], as_json: bool) -> None:
    """Print one record: as JSON, or a line for each of its fields."""
    if as_json:
        return print_json(document)
    table = Table.grid(padding=(0, 2))
    for name, value in document.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    print_table(table)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, ensure_ascii=False))


def table_of(*columns: str) -> Table:
    """An empty table with those columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in _WHOLE, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or as wide as it needs to be where there is none.

    Cells are plain text: a bracket in a name is not markup.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        unbounded = console.options.update(max_width=1000)
        console.width = max(80, console.measure(table, options=unbounded).maximum)
    console.print(table)


def size(n_bytes: int) -> str:
    """A number of bytes in KiB or MiB."""
    return f"{n_bytes / 2**20:,.1f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:,.1f} KiB"
