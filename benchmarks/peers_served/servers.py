"""The served candidates, ours included: each is started, asked one JPEG at a time, and stopped."""

import base64
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers_served.models import Models
from benchmarks.peers_served.posting import TIMEOUT_S, Posting
from benchmarks.peers_served.torchserve_config import configure
from benchmarks.processes import Tree, corolla, free_port, running, until_answered
from benchmarks.stores import TASK, Shelf
from serving.client.blocking import Client

LITSERVE, TORCHSERVE = "litserve", "torchserve"

Probabilities = NDArray[np.float64]
"""[C]."""

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""For every server: eight workers share the cores, and a forward on one thread costs the least CPU time."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server.

    Attributes:
        ask: A model's number and a JPEG to the classes' probabilities; safe in threads.
    """

    tree: Tree
    ask: Callable[[int, bytes], Probabilities]


@contextmanager
def ours(found: Shelf, *flags: str, name: str = "corolla") -> Iterator[Served]:
    """`corolla serve` over a store."""
    with (
        corolla(found, "--threads", "1", *flags, name=name) as server,
        Client(server.address, timeout_s=TIMEOUT_S) as client,
    ):

        def ask(number: int, jpeg: bytes) -> Probabilities:
            reply = client.classify([jpeg], route=found.adapters[number], task=TASK, probabilities=True)
            return np.array(reply.results[0].probabilities, np.float64)

        yield Served(tree=server.tree, ask=ask)


@contextmanager
def litserve(models: Models, folder: Path) -> Iterator[Served]:
    """LitServe with all models in one worker."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers_served.litserve_app", str(models.folder), str(port)]
    with (
        running(command, folder=folder, name="litserve", surroundings=ONE_THREAD) as tree,
        closing(Posting(port)) as post,
    ):
        until_answered(f"http://127.0.0.1:{port}/health", tree, folder / "litserve.log")

        def ask(number: int, jpeg: bytes) -> Probabilities:
            body = json.dumps({"model": number, "image": base64.b64encode(jpeg).decode()}).encode()
            return _softmax(post("/predict", body, "application/json")["logits"])

        yield Served(tree=tree, ask=ask)


@contextmanager
def torchserve(models: Models, folder: Path) -> Iterator[Served]:
    """TorchServe with a worker process for each model."""
    command, port = configure(models, folder)
    # Its launcher and its workers' sockets use the temporary folder as if no other TorchServe ran.
    surroundings = ONE_THREAD | {"TMPDIR": str(folder), "TEMP": str(folder)}
    with (
        running(command, folder=folder, name="torchserve", surroundings=surroundings) as tree,
        closing(Posting(port)) as post,
    ):
        until_answered(f"http://127.0.0.1:{port}/ping", tree, folder / "torchserve.log")

        def ask(number: int, jpeg: bytes) -> Probabilities:
            return _softmax(post(f"/predictions/copy-{number}", jpeg, "application/octet-stream"))

        yield Served(tree=tree, ask=ask)


def installed(peer: str) -> bool:
    """Whether a served peer can be run here."""
    if peer == TORCHSERVE:
        parts = ("ts", "model_archiver", "yaml")
        return shutil.which("java") is not None and all(importlib.util.find_spec(p) for p in parts)
    return importlib.util.find_spec(peer) is not None


def _softmax(logits: list[float]) -> Probabilities:
    shifted = np.exp(np.array(logits, np.float64) - max(logits))
    probabilities: Probabilities = shifted / shifted.sum()
    return probabilities
