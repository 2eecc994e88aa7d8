"""What the tests on a CUDA device share: where things are, and both of its back ends."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from petl_vit.adapter import Adapter
from petl_vit.arena import Arena
from petl_vit.heads import LinearHead
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import Backend, TorchBackend
from tests.petl_vit.adapters import CLASSES, method_of, random_tensors

DEVICE = torch.device("cuda")
BACKENDS = ("torch", "graph")
ARENA_BYTES = 64 * 2**20


@contextmanager
def exact() -> Iterator[None]:
    """float32 is what it says: TensorFloat-32 is off."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def slots_on(kind: str, vit: FrozenViT) -> Slots:
    """Slots as a back end of this kind needs them."""
    if kind == "torch":
        return Slots(vit.device)
    arena = Arena(vit.arch, nbytes=ARENA_BYTES, slots=256, dtype=vit.dtype, device=vit.device)
    return Slots(vit.device, arena=arena)


def backend_on(kind: str, vit: FrozenViT, slots: Slots | None = None) -> Backend:
    """A back end that serves the backbone where it is."""
    slots = slots_on(kind, vit) if slots is None else slots
    if kind == "torch":
        return TorchBackend(lambda size: vit, slots)
    from serving.engine.graph_backend import GraphBackend  # Triton is not everywhere

    return GraphBackend(lambda size: vit, slots)


def adapter_for(vit: FrozenViT, name: str, seed: int = 0, *, like: FrozenViT) -> Adapter:
    """A random adapter of a method for a backbone on the device.

    Args:
        like: The same backbone on the host in float32, which the tensors are made from.
    """
    method = method_of(name)
    base, own = (LinearHead.init(CLASSES, vit.arch.features, _seeded(number)) for number in (1, seed + 100))
    return Adapter.load(
        digest=f"{name}-{seed}",
        method=method,
        tensors=random_tensors(method, like, seed) | own.tensors(),
        vit=vit,
        base_head=base.to(device=torch.device("cpu"), dtype=vit.dtype),
        task_digest="task",
    )


def _seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)
