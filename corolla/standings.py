"""What the commands that register a version say of the aliases and routes beside it."""

from collections.abc import Sequence

import click
from pydantic import JsonValue

from model_store.format.records import Manifest
from model_store.resolution.promotion import after_registration
from model_store.store import Store


def say(store: Store, registered: Sequence[Manifest]) -> None:
    """One line for each alias and route of the adapters of versions just registered: it moves or stays."""
    for standing in after_registration(store, registered):
        click.echo(standing.line)


def documents(store: Store, registered: Sequence[Manifest]) -> list[JsonValue]:
    """The same for programs."""
    return [dict(standing.document()) for standing in after_registration(store, registered)]
