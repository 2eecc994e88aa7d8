"""An engine that fails as it is told, and what it stands on."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from model_store.resolution.loading import Loader
from petl_vit.batch import Model, Row
from petl_vit.slots import Slots
from serving.engine.backend import TorchBackend, VitOf
from serving.engine.engine import Engine, Job, Logits
from tests.serving.world import SIZE, World


class Counted:
    """What an engine reported."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.out_of_memories = 0
        self.row_buffers = 0

    def batch(self, rows: int, adapters: int, seconds: float) -> None:
        assert seconds > 0
        self.batches.append((rows, adapters))

    def out_of_memory(self) -> None:
        self.out_of_memories += 1

    def set_row_buffers(self, size: int) -> None:
        self.row_buffers = size


class Failing(TorchBackend):
    """A real backend that fails as it is told.

    Attributes:
        fail: Raises what the rows deserve, if anything.
    """

    def __init__(self, vit_of: VitOf, slots: Slots) -> None:
        super().__init__(vit_of, slots)
        self.tried: list[int] = []
        self.fail: Callable[[Sequence[Row]], None] = lambda rows: None

    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        self.tried.append(len(rows))
        assert {row.image for row in rows} == set(range(len(images))), "only images that rows have"
        self.fail(rows)
        return super().logits(images, rows)


class Parts:
    """An engine and what it stands on."""

    def __init__(self, world: World, loader: Loader, *, slots: int | None = None) -> None:
        self._world, self._loader = world, loader
        self.counted, self.slots = Counted(), Slots(count=slots)
        self.backend = Failing(loader.vit, self.slots)
        self.engine = Engine(self.backend, slots=self.slots, metrics=self.counted)

    def models(self, text: str) -> tuple[Model, ...]:
        resolved = self._world.resolve(text)
        return self._loader.models(resolved)

    def job(self, text: str, seed: int = 0, size: int = SIZE) -> Job:
        return Job(image=image(seed, size), models=self.models(text))


def image(seed: int, size: int = SIZE) -> Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))


def same(found: Logits | Exception, expected: Logits | Exception) -> None:
    assert isinstance(found, list), found
    assert isinstance(expected, list), expected
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))
