import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.errors import Overloaded
from petl_vit.precision import Precision
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import TorchBackend
from tests.petl_vit.adapters import NAMES, adapter_of, images_of
from tests.petl_vit.backbones import family, relative


def rows_of(adapters: Sequence[Adapter], images: int) -> list[Row]:
    models = [Model([Term(adapter=adapter, alpha=0.5)]) for adapter in adapters]
    return [Row(image=i, model=model) for model in models for i in range(images)]


def test_rows_come_back_in_their_order_on_the_cpu() -> None:
    vit, _ = family("plain")
    images, rows = images_of(vit), rows_of([adapter_of(name, vit) for name in NAMES], 3)
    backend = TorchBackend(lambda size: vit, Slots())
    backend.warm(vit.arch.image_size)

    found = backend.logits(list(images), rows)

    for row, logits in zip(rows, found, strict=True):
        alone = Batch(vit).logits(images[row.image : row.image + 1], [Row(image=0, model=row.model)])[0]
        assert logits.is_cpu
        assert relative(logits, alone) <= 1e-5


def test_every_image_size_has_a_backbone_of_its_own_and_keeps_it() -> None:
    vit, _ = family("plain")
    other = FrozenViT(vit.config, dict(vit.params), image_size=48)
    vits = {one.arch.image_size: one for one in (vit, other)}
    backend = TorchBackend(vits.pop, Slots())  # each can be had once

    for one in (vit, other, vit):
        images, rows = images_of(one), rows_of([adapter_of("lora", one)], 3)
        expected = Batch(one).logits(images, rows)
        found = backend.logits(list(images), rows)
        assert all(relative(z, e) <= 1e-6 for z, e in zip(found, expected, strict=True))


def test_a_bf16_backbone_takes_float32_images_and_gives_float32_logits() -> None:
    vit, _ = family("plain")
    half = vit.in_precision(Precision.BF16)
    images = images_of(vit)
    backend = TorchBackend(lambda size: half, Slots())

    found = backend.logits(list(images), rows_of([adapter_of("linear", vit)], 3))

    expected = Batch(vit).logits(images, rows_of([adapter_of("linear", vit)], 3))
    assert {logits.dtype for logits in found} == {torch.float32}
    assert max(relative(z, e) for z, e in zip(found, expected, strict=True)) <= 0.05


def test_more_adapters_than_slots_are_refused() -> None:
    vit, _ = family("plain")
    backend = TorchBackend(lambda size: vit, Slots(count=1))

    with pytest.raises(Overloaded, match="slots"):
        backend.logits(list(images_of(vit)), rows_of([adapter_of("lora", vit), adapter_of("ssf", vit)], 1))


_OUT_OF_MEMORY = """
import resource
import sys

import numpy as np
import torch

from petl_vit import plain_vits
from petl_vit.backbone import BackboneConfig
from petl_vit.batch import Model, Term
from petl_vit.errors import Overloaded
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import TorchBackend
from serving.engine.engine import Engine, Job
from tests.petl_vit.adapters import adapter_of

SIZE, MIB = 512, 2**20


class Counted:
    def __init__(self):
        self.batches, self.out_of_memories = [], 0

    def batch(self, rows, adapters, seconds):
        self.batches.append(rows)

    def out_of_memory(self):
        self.out_of_memories += 1

    def set_row_buffers(self, size):
        pass


def limit(spare):
    pages = int(open("/proc/self/statm").read().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard if spare is None else pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def same(z, expected):
    return isinstance(z, list) and np.abs(z[0] - expected[0]).max() <= 1e-5 * np.abs(expected[0]).max()


def refused(z):
    return isinstance(z, Overloaded) and z.field == "memory"


torch.set_num_threads(1)
half, options = (0.5, 0.5, 0.5), {"depth": 1}
config = BackboneConfig(
    architecture="vit_tiny_patch16_224", image_size=SIZE, options=options, mean=half, std=half
)
torch.manual_seed(0)
shapes = plain_vits.find(config).shapes(SIZE)  # without timm, which takes as long to import as torch
vit = FrozenViT(config, {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()})
counted, slots = Counted(), Slots()
engine = Engine(TorchBackend(lambda size: vit, slots), slots=slots, metrics=counted)
models = [Model([Term(adapter=adapter_of(name, vit))]) for name in ("lora", "ssf", "bitfit", "convpass")]
jobs = [Job(image=torch.randn(3, SIZE, SIZE), models=(models[i % 4],)) for i in range(16)]
alone = [engine.run([job])[0] for job in jobs]

for spare in (30 * MIB, -20 * MIB):  # 16 rows take about 75; then what the process has must do
    limit(spare)
    counted.batches.clear()
    found = engine.run(jobs)
    limit(None)
    answered, late = sum(map(same, found, alone)), sum(map(refused, found))
    assert answered == sum(counted.batches)
    print(counted.out_of_memories, max(counted.batches, default=0), answered, late)

assert all(map(same, engine.run(jobs), alone))
print(counted.batches[-1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux' limit of a process' memory")
def test_a_process_that_really_runs_out_of_memory_answers_in_parts_and_lives() -> None:
    """Its address space is limited, so that the C library itself finds no memory."""
    ran = subprocess.run(
        [sys.executable, "-c", _OUT_OF_MEMORY],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    little, none, after = (list(map(int, line.split())) for line in ran.stdout.splitlines())
    failures, largest, answered, refused = little
    assert failures >= 1
    assert largest <= 8
    assert (answered, refused) == (16, 0), "all are right"
    failures, _, answered, refused = none
    assert failures >= 1
    assert answered + refused == 16, "right, or refused"
    assert after == [16], f"at once again, and not in parts:\n{ran.stderr}"
