"""Peak memory of training a LoRA, ours and PEFT's, each in a fresh process."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.resident import resident_bytes
from benchmarks.training_inside.steps import Ground, Peft, Several, ours
from petl_vit import heap
from training.run import memory

_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Resident bytes.

    Attributes:
        before: Of the process with its model and its images.
        most: The most while it trained.
        said: By how much it would grow, before it did; None where nothing was said.
    """

    before: int
    most: int
    said: int | None = None

    @property
    def grown(self) -> int:
        return self.most - self.before


def measure(ground: Ground) -> tuple[Peak, Peak]:
    """Ours and PEFT's."""
    found = []
    for run in (_ours, _peft):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            found.append(fresh.submit(run, ground).result())
    return found[0], found[1]


def _ours(ground: Ground) -> Peak:
    heap.keep(os.environ)  # as `corolla train` does
    trainer = ground.trainer("lora", noise=False)
    _ = ground.images
    said = memory.need([trainer], Several(ground)).of(ground.batch)
    return _peak(ours(ground, [trainer]), said)


def _peft(ground: Ground) -> Peak:
    peft = Peft(ground, ground.trainer("lora", noise=False))
    _ = ground.images
    return _peak(peft.step)


def _peak(step: Callable[[], object], said: int | None = None) -> Peak:
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    for _ in range(_STEPS):
        step()
    return Peak(before=before, most=_high_water(), said=said)


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
