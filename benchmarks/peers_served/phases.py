"""The served candidates under the same JPEGs, in alternating phases: CPU time of each one's process tree."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.adapters import backbone, tensors
from benchmarks.interleave import Costs, costs
from benchmarks.peers_inside.candidates import AUTO, OURS, check_same
from benchmarks.peers_inside.copies import merged
from benchmarks.peers_served import servers
from benchmarks.peers_served.models import Models
from benchmarks.peers_served.servers import LITSERVE, TORCHSERVE, Served
from benchmarks.pictures import jpeg
from benchmarks.precisions import CPU
from benchmarks.report import progress
from benchmarks.stores import Shelf, shelf
from benchmarks.traffic import IN_FLIGHT, ask_all
from petl_vit.device import has_bf16
from petl_vit.vit import FrozenViT


@dataclass(frozen=True, kw_only=True)
class ServedCosts:
    """What the served candidates cost.

    Attributes:
        taken: CPU seconds of an image.
        private_bytes: Of the process tree.
    """

    taken: Costs
    private_bytes: Mapping[str, int]


def measure(architecture: str, image_size: int, *, adapters: int, requests: int, rounds: int) -> ServedCosts:
    """Phases of so many requests, `IN_FLIGHT` at a time, by every server that is installed.

    Raises:
        RuntimeError: A server did not start, or gives other results than ours.
    """
    vit, _ = backbone(architecture, image_size)
    jpegs = [jpeg(seed) for seed in range(IN_FLIGHT)]
    with ExitStack() as stack:
        found = stack.enter_context(shelf(vit, ["lora"], adapters))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="corolla-peers-")))
        running = _start(stack, found, vit, folder)
        reference = _answers(running[OURS], jpegs[:adapters])
        for name, server in running.items():
            if name != AUTO:
                check_same(name, _answers(server, jpegs[:adapters]), reference)
        phases = {name: _phase(server, jpegs, adapters, requests) for name, server in running.items()}
        taken = costs(phases, rounds=rounds, warmup=1, progress=progress)
        private = {name: server.tree.private_bytes() for name, server in running.items()}
        return ServedCosts(taken=taken, private_bytes=private)


def _start(stack: ExitStack, found: Shelf, vit: FrozenViT, folder: Path) -> dict[str, Served]:
    copies = [merged(tensors("lora", vit, seed), vit) for seed in range(len(found.adapters))]
    models = Models.write(folder, copies, architecture=vit.arch.name, preprocess=found.preprocess)
    running = {OURS: stack.enter_context(servers.ours(found, "--precision", "fp32"))}
    if has_bf16(CPU):
        running[AUTO] = stack.enter_context(servers.ours(found, "--precision", "auto", name="auto"))
    for name, start in ((LITSERVE, servers.litserve), (TORCHSERVE, servers.torchserve)):
        if servers.installed(name):
            progress(f"starting {name}")
            running[name] = stack.enter_context(start(models, folder))
        else:
            progress(f"{name} is not installed: left out")
    return running


def _answers(server: Served, jpegs: Sequence[bytes]) -> servers.Probabilities:
    return np.stack([server.ask(number, jpeg) for number, jpeg in enumerate(jpegs)])


def _phase(server: Served, jpegs: Sequence[bytes], adapters: int, requests: int) -> Callable[[], float]:
    def ask(number: int) -> object:
        return server.ask(number % adapters, jpegs[number % len(jpegs)])

    def run() -> float:
        before = server.tree.cpu_seconds()
        ask_all(ask, range(requests))
        return (server.tree.cpu_seconds() - before) / requests

    return run
