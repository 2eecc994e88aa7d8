"""Memory of a CUDA device: what the arena says is what it takes, and running out of it is survived."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from petl_vit.adapter import Adapter
from petl_vit.arena import Arena
from petl_vit.batch import Model, Term
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from serving.engine.engine import Engine, Job
from tests.gpu import BACKENDS, DEVICE, adapter_for, backend_on, exact, slots_on
from tests.petl_vit.backbones import config_of, family, tensors_of, timm_model

pytestmark = pytest.mark.gpu

MIB = 2**20
SIZE, IMAGES = 512, 16
METHODS = ("lora", "ssf", "bitfit", "convpass")


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_full_arena_takes_what_it_says(precision: Precision) -> None:
    like, asked = family("plain")[0], 256 * MIB
    vit = like.to(device=DEVICE).in_precision(precision)
    adapters = [adapter_for(vit, name, like=like) for name in ("lora", "full")]
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()

    arena = Arena(vit.arch, nbytes=asked, slots=512, device=DEVICE)
    placed = _filled(arena, adapters)

    torch.cuda.synchronize()
    taken = torch.cuda.memory_allocated() - before
    assert arena.nbytes == pytest.approx(asked, rel=0.02)
    assert taken == pytest.approx(arena.nbytes, rel=0.02)
    assert 0.9 * arena.bank.nbytes <= placed <= arena.bank.nbytes, "it is full"


def _filled(arena: Arena, adapters: list[Adapter]) -> int:
    """Places adapters, in turns, until there is no room; the bytes of those that found some."""
    taken = 0
    while True:
        for adapter in adapters:
            placed = arena.place(adapter.edits)
            if placed is None:
                return taken
            taken += placed.nbytes


class Counted:
    """What an engine reported."""

    def __init__(self) -> None:
        self.out_of_memories = 0
        self.row_buffers = 0

    def batch(self, rows: int, adapters: int, seconds: float) -> None:
        pass

    def out_of_memory(self) -> None:
        self.out_of_memories += 1

    def set_row_buffers(self, size: int) -> None:
        self.row_buffers = size


@contextmanager
def spare(nbytes: int) -> Iterator[None]:
    """This process gets no more of the device than so many bytes beside what it has."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + nbytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def big() -> FrozenViT:
    """A backbone whose rows take much more memory than its parameters."""
    config = config_of("vit_tiny_patch16_224", SIZE, (), 1)
    return FrozenViT(config, tensors_of(timm_model(config.model_dump_json())))


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_batch_for_which_there_is_no_memory_is_answered_in_parts(kind: str) -> None:
    like = big()
    vit = like.to(device=DEVICE)
    counted, slots = Counted(), slots_on(kind, vit)
    engine = Engine(backend_on(kind, vit, slots), slots=slots, metrics=counted)
    models = [
        Model([Term(adapter=adapter_for(vit, name, seed, like=like))])
        for name in METHODS
        for seed in range(4)
    ]
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    jobs = [Job(image=image, models=tuple(models)) for image in images]  # 256 rows

    with exact():
        alone = [engine.run([Job(image=images[0], models=(model,))])[0] for model in models]
        with spare(384 * MIB):
            found = engine.run(jobs)
        again = engine.run(jobs[:1])

    assert counted.out_of_memories >= 1
    assert not any(isinstance(answer, Exception) for answer in found)
    for answer in (found[0], again[0]):
        assert isinstance(answer, list)
        for logits, (expected,) in zip(answer, alone, strict=True):  # type: ignore[misc]
            assert abs(logits - expected).max() <= 1e-3 * abs(expected).max()
