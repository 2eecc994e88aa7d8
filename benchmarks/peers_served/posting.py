"""HTTP calls over connections that are kept."""

import http.client
import json
import time
from contextlib import suppress
from typing import Any

TIMEOUT_S = 600
KEPT_S = 2.0
"""Servers close what is idle for longer, uvicorn after five seconds."""


class Posting:
    """Sends bodies to one server on loopback; safe in threads."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []

    def __call__(self, path: str, body: bytes, kind: str) -> Any:
        """The JSON that the server answers.

        Raises:
            RuntimeError: It answered with another status than 200.
        """
        connection = self._connection()
        connection.request("POST", path, body, {"Content-Type": kind})
        reply = connection.getresponse()
        said = reply.read()
        self._idle.append((time.monotonic(), connection))
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {said[:500]!r}")
        return json.loads(said)

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _connection(self) -> http.client.HTTPConnection:
        with suppress(IndexError):
            used, connection = self._idle.pop()
            if time.monotonic() - used < KEPT_S:
                return connection
            connection.close()
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
