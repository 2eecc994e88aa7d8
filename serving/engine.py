"""The engine: images under their models, through one resident backbone.

Runs in one thread. Knows tensors and models; does not know names, requests or metrics' labels.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petl_vit.batch import Batch, Model, Row
from petl_vit.executors import Sliced
from petl_vit.vit import FrozenViT


class EngineMetrics(Protocol):
    """What the engine reports; see `serving.metrics`."""

    def batch(self, rows: int, adapters: int, seconds: float) -> None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One image under every model that is asked about it.

    Attributes:
        image: [3, S, S] float32, preprocessed.
        models: One row of the batch each.
    """

    image: Tensor
    models: tuple[Model, ...]

    @property
    def rows(self) -> int:
        return len(self.models)


Logits = list[NDArray[np.float64]]
"""One [C] for each model of a job."""


class Engine:
    """Runs jobs over one backbone; jobs of one image size share a forward.

    Args:
        metrics: Where batch sizes and forward times go.
    """

    def __init__(self, *, metrics: EngineMetrics) -> None:
        self._batches: dict[int, Batch] = {}
        self._metrics = metrics
        self.warmed = False

    def add_size(self, size: int, vit: FrozenViT) -> None:
        """Makes the engine serve another image size, in pixels."""
        self._batches.setdefault(size, Batch(vit))

    def warm(self, size: int) -> None:
        """Runs the frozen backbone once, so that the first request does not pay for it."""
        vit = self._batches[size].vit
        images = torch.zeros(1, 3, size, size, device=vit.device, dtype=vit.dtype)
        with torch.inference_mode():
            vit.forward(images, Sliced(vit, []))
        self.warmed = True

    def run(self, jobs: Sequence[Job]) -> list[Logits | Exception]:
        """The logits of every job, in order."""
        answers: list[Logits | Exception] = [[] for _ in jobs]
        for size in sorted({job.image.shape[-1] for job in jobs}):
            members = [i for i, job in enumerate(jobs) if job.image.shape[-1] == size]
            found = self._run_size(self._batches[size], [jobs[i] for i in members])
            for i, logits in zip(members, found, strict=True):
                answers[i] = logits
        return answers

    def _run_size(self, batch: Batch, jobs: list[Job]) -> list[Logits]:
        started = time.monotonic()
        vit = batch.vit
        images = torch.stack([job.image for job in jobs]).to(device=vit.device, dtype=vit.dtype)
        rows = [Row(image=i, model=model) for i, job in enumerate(jobs) for model in job.models]
        logits = iter([row.double().cpu().numpy() for row in batch.logits(images, rows)])
        answers = [[next(logits) for _ in job.models] for job in jobs]
        adapters = {digest for row in rows for digest in row.model.digests}
        self._metrics.batch(len(rows), len(adapters), time.monotonic() - started)
        return answers
