"""`corolla keys`: keys that sign adapters."""

from pathlib import Path

import click

from corolla import flags, tables
from corolla.flags import epilog
from corolla.group import CommandGroup
from model_store.format.signature import KIND, SigningKey, create_key, fingerprint


@click.group(cls=CommandGroup)
def keys() -> None:
    """Make and show keys that sign adapters."""


@keys.command(
    "create", epilog=epilog("corolla keys create release.key", "corolla keys create release.key --comment ci")
)
@click.argument("file", type=flags.PATH)
@click.option("--comment", default="", help="Whose key it is; stands behind the public key.")
@flags.as_json
def create(file: Path, comment: str, as_json: bool) -> None:
    """Make a key, and print its public half.

    FILE gets the private key, which its owner alone may read, and FILE.pub the public one: a line for the
    file that `corolla serve --trusted-keys` reads. The private key has no passphrase: keep it where releases
    are made.
    """
    line = create_key(file.expanduser(), " ".join(comment.split()))
    _show(line.split()[1], line, as_json)


@keys.command("show", epilog=epilog("corolla keys show release.key >> trusted_keys"))
@click.argument("file", type=flags.PATH)
@flags.as_json
def show(file: Path, as_json: bool) -> None:
    """Print the public half of the private key in FILE."""
    public = SigningKey.read(file.expanduser()).public
    _show(public, f"{KIND} {public}", as_json)


def _show(public: str, line: str, as_json: bool) -> None:
    if as_json:
        return tables.print_json({"public_key": line, "fingerprint": fingerprint(public)})
    click.echo(line)
