"""A connection to a running server, for the commands that act through one. No torch."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from corolla import flags
from corolla.flags import Connection
from petl_vit.errors import InvalidInput
from serving.client.blocking import Client
from serving.client.credentials import credentials
from serving.client.messages import DEFAULT_ADDRESS


def on_server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--server` and the flags that belong to it; it is called with a `client`."""

    @flags.server("The running server.", default=DEFAULT_ADDRESS)
    @wraps(command)
    def run(connection: Connection, **rest: Any) -> Any:
        with connect(connection) as client:
            return command(client=client, **rest)

    return run


def connect(connection: Connection) -> Client:
    """A client of a server.

    Raises:
        NotFound: The token's file does not exist.
        InvalidInput: The address is not HOST:PORT, a file of TLS or of the token cannot be read, a
            certificate and a key do not belong together, or the token would be sent in plain text.
    """
    chosen = _credentials(connection)
    try:
        return Client(
            connection.address,
            credentials=chosen,
            server_name=connection.server_name,
            timeout_s=connection.timeout_s,
            token=connection.token,
            insecure=connection.insecure,
        )
    except InvalidInput as error:
        raise (error.about("server") if error.field == "address" else error) from error


def _credentials(connection: Connection) -> grpc.ChannelCredentials | None:
    files = {"ca": connection.ca, "certificate": connection.certificate, "key": connection.key}
    return credentials(**files) if any(files.values()) else None


def document(message: Message) -> dict[str, Any]:
    """A message with every field that is always there, zero and false too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
