"""A connection to a running server, for the commands that act through one. No torch."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from corolla import flags
from corolla.flags import Connection
from serving.access import certificates
from serving.client.blocking import Client
from serving.client.messages import DEFAULT_ADDRESS


def on_server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--server` and the flags that belong to it; it is called with a `client`."""

    @flags.server("HOST:PORT of the server.", default=DEFAULT_ADDRESS)
    @wraps(command)
    def run(connection: Connection, **rest: Any) -> Any:
        with connect(connection) as client:
            return command(client=client, **rest)

    return run


def connect(connection: Connection) -> Client:
    """A client of a server.

    Raises:
        InvalidInput: A file of TLS cannot be read, or a certificate and a key do not belong together.
    """
    credentials = _credentials(connection)
    return Client(connection.address, credentials=credentials, timeout_s=connection.timeout_s)


def _credentials(connection: Connection) -> grpc.ChannelCredentials | None:
    certificates.check_both(connection.certificate, connection.key)
    ca = None if connection.ca is None else certificates.read(connection.ca, "tls_ca")
    if connection.certificate is None or connection.key is None:
        return None if ca is None else grpc.ssl_channel_credentials(ca)
    certificate, key = certificates.pair(connection.certificate, connection.key)
    return grpc.ssl_channel_credentials(ca, key, certificate)


def document(message: Message) -> dict[str, Any]:
    """A message with every field that is always there, zero and false too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
