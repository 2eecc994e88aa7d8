"""Commands run in this process over one store, as click's own runner does it."""

import json
from typing import Any

import click
from click.testing import CliRunner


def printed(command: click.Command, *words: str, store: object) -> str:
    """What a command prints.

    Raises:
        Exception: What it raises.
    """
    environment = {"COROLLA_STORE": str(store), "COLUMNS": "200"}
    result = CliRunner().invoke(command, list(words), env=environment, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def document(command: click.Command, *words: str, store: object) -> Any:
    """What a command prints with `--json`."""
    return json.loads(printed(command, *words, "--json", store=store))
