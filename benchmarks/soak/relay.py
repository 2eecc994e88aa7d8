"""A relay on loopback that stands for a bad network: connections through it are slow, or are cut off."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from benchmarks.soak.traffic import seconds_until

_CHUNK = 16384


class Relay:
    """Passes bytes between its clients and a server.

    Args:
        address: HOST:PORT of the server.
        bytes_per_s: To the server; None is as fast as it goes.
    """

    def __init__(self, address: str, bytes_per_s: float | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._to, self._bytes_per_s = (host, int(port)), bytes_per_s
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def connected(self) -> bool:
        """Whether a client has come."""
        return bool(self._sockets)

    def cut(self) -> None:
        """Ends all connections at once, without a farewell, as a machine that dies does."""
        for connection in self._sockets:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)  # wakes its thread, and says nothing to the peer
        for connection in self._sockets:
            connection.close()
        self._sockets.clear()

    def close(self) -> None:
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._to)
                self._sockets += [client, server]
                for source, target, rate in ((client, server, self._bytes_per_s), (server, client, None)):
                    Thread(target=_pass_on, args=(source, target, rate), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, bytes_per_s: float | None) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK if bytes_per_s is None else 512):
            target.sendall(data)
            if bytes_per_s is not None:
                time.sleep(len(data) / bytes_per_s)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(address: str, bytes_per_s: float | None = None) -> Iterator[Relay]:
    """A relay for as long as the block lasts."""
    relay = Relay(address, bytes_per_s)
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def silent(address: str, count: int) -> Iterator[None]:
    """Connections that say nothing, or begin a greeting and say no more."""
    host, _, port = address.rpartition(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(count)]
    for connection in connections[::2]:
        connection.sendall(b"PRI * HTTP/2.0\r\n")
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


def wait_for_client(relay: Relay) -> None:
    """Waits until somebody has come to a relay."""
    seconds_until(lambda: relay.connected, 30.0)
