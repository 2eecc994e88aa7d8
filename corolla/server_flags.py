"""What commands that talk to a server share: where it is, how to reach it, its answers as JSON. No torch."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from corolla.reach import Reach, reach_options
from petl_vit.errors import InvalidInput, NotFound
from serving.access import certificates
from serving.client.blocking import Client
from serving.client.messages import DEFAULT_ADDRESS

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def on_server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command `--server` and how to reach it; it is called with a `client`."""

    @click.option("--server", default=DEFAULT_ADDRESS, show_default=True, help="HOST:PORT of the server.")
    @reach_options
    @wraps(command)
    def run(server: str, reach: Reach, **rest: Any) -> Any:
        with connect(server, reach) as client:
            return command(client=client, **rest)

    return run


def connect(server: str, reach: Reach) -> Client:
    """A client of a server.

    Raises:
        InvalidInput: A file of TLS cannot be read, or a certificate and a key are no pair.
    """
    return Client(server, credentials=_credentials(reach), timeout_s=reach.timeout_s)


def _credentials(reach: Reach) -> grpc.ChannelCredentials | None:
    certificates.check_both(reach.certificate, reach.key)
    ca = None if reach.ca is None else certificates.read(reach.ca, "tls_ca")
    if reach.certificate is None or reach.key is None:
        return None if ca is None else grpc.ssl_channel_credentials(ca)
    certificate, key = certificates.pair(reach.certificate, reach.key)
    return grpc.ssl_channel_credentials(ca, key, certificate)


def read_file(path: Path, field: str) -> bytes:
    """The bytes of a file that a user named.

    Raises:
        NotFound: It does not exist.
        InvalidInput: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", field=field) from None
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", field=field, remedy="name a readable file") from None


def document(message: Message) -> dict[str, Any]:
    """A message with every field that is always there, zero and false too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_json(message: Message) -> None:
    """Prints a message as one JSON document."""
    click.echo(json.dumps(document(message)))


def print_table(table: Table, **options: Any) -> None:
    """Prints a table, as wide as it needs to be where no terminal says how wide it is.

    Args:
        options: Of rich's Console.
    """
    console = Console(**options)
    if not console.is_terminal:
        wide = console.options.update(max_width=1000)
        console.width = max(80, console.measure(table, options=wide).maximum)
    console.print(table)
