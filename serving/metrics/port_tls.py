"""TLS of the metrics port: its certificate, read again when it is renewed, and the handshake."""

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from serving import pem
from serving.renewed_files import RenewedFiles

_HANDSHAKE_S = 10.0  # until a client has said its first byte, and then until it has shaken hands
_TLS = b"\x16"  # the first byte of a TLS connection
_MOST_BYTES = 2**16
_IN_PLAIN_TEXT = b"a request in plain HTTP was sent to a port of HTTPS\n"
_REFUSAL = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_IN_PLAIN_TEXT), _IN_PLAIN_TEXT)
)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    pem: tuple[bytes, bytes] = field(repr=False)
    context: ssl.SSLContext = field(compare=False)


class PortTls:
    """A certificate for a port; new connections get a renewed one. Several threads may use it at once.

    Args:
        certificate, key: PEM files of the chain and of its key.

    Raises:
        InvalidInput: A file cannot be read, or they are not a pair.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        def read() -> _Shown:
            shown = _Shown(pem=pem.pair(certificate, key), context=pem.server_context(certificate, key))
            shown.context.set_alpn_protocols(["http/1.1"])
            return shown

        what = f"certificate {certificate} of the metrics port"
        self._files = RenewedFiles([certificate, key], read, what=what)
        self._looking = Lock()

    def handshake(self, connection: socket.socket) -> ssl.SSLSocket | None:
        """The connection over TLS; None where the client spoke HTTP in plain text, and was told so.

        Blocks until the client has shaken hands, and takes the connection.

        Raises:
            OSError: The client speaks neither, went away, or took longer than it may.
        """
        connection.settimeout(_HANDSHAKE_S)
        first = connection.recv(1, socket.MSG_PEEK)
        if first not in (_TLS, b""):
            connection.recv(_MOST_BYTES)  # closing with unread bytes would take the answer along
            connection.sendall(_REFUSAL)
            return None
        return self._context().wrap_socket(connection, server_side=True)

    def _context(self) -> ssl.SSLContext:
        with self._looking:
            self._files.changed()
            return self._files.content.context
