"""What clients see through the TLS sidecar in front of Ray's proxy."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.ray_cluster import ADDRESS
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, RequestId, request_of
from tests.nginx import Sidecar
from tests.serving.access.callers import Callers
from tests.serving.world import WAIT_S, encoded

LORA = {"route": "lora", "task": "shapes"}
LARGE = np.zeros((8, 512, 512, 3), np.uint8)
"""6 MiB: nginx takes 1 MiB by default."""
CUT = 2
"""Streams that nginx's defaults cut, one after the other: a whole timeout passes after the first."""

Sent = Iterator[tuple[RequestId, pb.ClassifyRequest]]


def encrypted(folder: Path, callers: Callers) -> dict[str, Any]:
    """Calls of the principal `reader`, of nobody, and without TLS.

    Args:
        folder: For nginx's files.
        callers: The principals that the replicas know.
    """
    with Sidecar(folder / "nginx", ADDRESS) as sidecar:
        credentials = grpc.ssl_channel_credentials(sidecar.certificates.read("ca.pem"))

        def client(address: str, token: str | None = callers.tokens["reader"]) -> Client:
            return Client(address, credentials=credentials, token=token, timeout_s=WAIT_S)

        with (
            client(sidecar.address) as reader,
            client(sidecar.address, None) as nobody,
            client(sidecar.bare) as unset,
            Client(sidecar.address, timeout_s=WAIT_S) as plain,
        ):
            return {
                "classify": reader.classify([encoded(1)], **LORA).route,
                "large": len(reader.classify(tensor=LARGE, **LORA).results),
                "stream": sorted(key for key, _ in reader.stream(_numbered(3))),
                "silent stream": _silent(reader, unset),
                "nobody": _code(nobody),
                "without TLS": _code(plain),
            }


def _numbered(count: int, before_last: Callable[[], object] = lambda: None) -> Sent:
    for number in range(count):
        if number == count - 1:
            before_last()
        yield str(number), request_of([encoded(number)], **LORA)


def _silent(client: Client, unset: Client) -> list[RequestId]:
    """The answers of a stream that is silent for longer than nginx's defaults allow."""
    go_on = threading.Event()

    def wait() -> None:
        go_on.wait(WAIT_S)

    answers = client.stream(_numbered(2, wait))
    found = [next(answers)[0]]
    for _ in range(CUT):
        others = unset.stream(_numbered(2, wait))
        next(others)
        try:
            next(others)
        except RequestFailed:
            continue
        raise AssertionError("nginx's defaults are not in force")
    go_on.set()
    return found + [key for key, _ in answers]


def _code(client: Client) -> str:
    """The status of a call."""
    try:
        client.classify([encoded(1)], **LORA)
    except RequestFailed as error:
        return error.code
    return "OK"
