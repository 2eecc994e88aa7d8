"""The engine: runs images under their models through one resident backbone.

Runs in one thread. Knows tensors and models; knows neither names nor requests nor labels of metrics. A batch
that does not fit into memory or into the slots runs in parts.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petl_vit.batch import Model, Row
from petl_vit.errors import InvalidInput, Overloaded
from petl_vit.slots import Slots
from serving.engine.backend import Backend
from serving.engine.out_of_memory import is_out_of_memory

_log = logging.getLogger(__name__)


class EngineMetrics(Protocol):
    """What the engine reports; see `serving.metrics.events`."""

    def batch(self, rows: int, adapters: int, seconds: float) -> None: ...

    def out_of_memory(self) -> None: ...

    def set_row_buffers(self, size: int) -> None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One image under all models of a request.

    Attributes:
        image: [3, S, S] float32, preprocessed.
        models: One row of the forward each.
        witness: One row more, that nobody waits for: it takes no room in the queue, and the job does not
            fail where it does.
    """

    image: Tensor
    models: tuple[Model, ...]
    witness: Model | None = None

    @property
    def rows(self) -> int:
        return len(self.models)

    @property
    def nbytes(self) -> int:
        """Of the image, which is in memory while the job waits."""
        return self.image.nbytes


Logits = list[NDArray[np.float64]]
"""One [C] for each model of a job; and where it has a witness that did not fail, what that says."""


class Engine:
    """Runs jobs over one backbone; jobs of one image size share a forward.

    Args:
        backend: What computes.
        slots: The adapters it can have at once.
        metrics: Where batch sizes and forward times go.
    """

    def __init__(self, backend: Backend, *, slots: Slots, metrics: EngineMetrics) -> None:
        self.backend, self._slots, self._metrics = backend, slots, metrics
        self.warmed = False

    def warm(self, size: int) -> None:
        """Runs the frozen backbone once at an image size, so that no request pays for the first time."""
        self.backend.warm(size)
        self.warmed = True

    def run(self, jobs: Sequence[Job]) -> list[Logits | Exception]:
        """The logits of every job, in order; the error of one that cannot be run at all."""
        answers: list[Logits | Exception] = [[] for _ in jobs]
        for size in sorted({job.image.shape[-1] for job in jobs}):
            indices = [i for i, job in enumerate(jobs) if job.image.shape[-1] == size]
            logits = self._run_size([jobs[i] for i in indices])
            for i, of_job in zip(indices, logits, strict=True):
                answers[i] = of_job
        return answers

    def _run_size(self, jobs: list[Job]) -> list[Logits | Exception]:
        images = [job.image for job in jobs]
        models = [job.models if job.witness is None else (*job.models, job.witness) for job in jobs]
        rows = [Row(image=i, model=model) for i, of_job in enumerate(models) for model in of_job]
        outputs = iter([output for part in self._parts(rows) for output in self._forward(images, part)])
        answers: list[Logits | Exception] = []
        for job, run in zip(jobs, models, strict=True):
            of_job = list(islice(outputs, len(run)))
            error = next((output for output in of_job[: job.rows] if isinstance(output, Exception)), None)
            answers.append(error or [z.double().numpy() for z in of_job if isinstance(z, Tensor)])
        return answers

    def _parts(self, rows: list[Row]) -> list[list[Row]]:
        """Consecutive rows whose adapters fit into the slots together."""
        slots, digests = self._slots.count, set[str]()
        parts: list[list[Row]] = [[]]
        for row in rows:
            digests = digests.union(row.model.digests)
            if parts[-1] and slots is not None and len(digests) > slots:
                parts.append([])
                digests = set(row.model.digests)
            parts[-1].append(row)
        return parts

    def _forward(self, images: list[Tensor], rows: list[Row]) -> list[Tensor | Exception]:
        """One forward; where memory or slots run out, two of half the rows."""
        started, out_of_memory = time.monotonic(), ""
        try:
            logits = self.backend.logits(*_compact(images, rows))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = str(error) or type(error).__name__
        except Overloaded as error:
            problem: Exception = error
        else:
            adapters = {digest for row in rows for digest in row.model.digests}
            self._metrics.batch(len(rows), len(adapters), time.monotonic() - started)
            self._metrics.set_row_buffers(self._slots.buffer_bytes)
            return list(logits)
        if out_of_memory:  # the error, which is gone only here, refers to the forward's tensors
            problem = self._free(out_of_memory, len(rows))
        if len(rows) == 1:
            return [self._never_fits(rows[0].model) or problem]
        half = len(rows) // 2
        return self._forward(images, rows[:half]) + self._forward(images, rows[half:])

    def _never_fits(self, model: Model) -> Exception | None:
        """The error of a model that has more adapters than there are slots; None where it has not."""
        slots, needed = self._slots.count, len(set(model.digests))
        if slots is None or needed <= slots:
            return None
        return InvalidInput(
            f"a sum of {needed} adapters does not fit into {slots} slots",
            field="slots",
            remedy="sum fewer adapters, or start the server with more --slots",
        )

    def _free(self, message: str, rows: int) -> Exception:
        """Frees idle slots for the next, smaller try; returns the error for when there is none."""
        freed = self._slots.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._metrics.out_of_memory()
        _log.warning("out of memory at %d rows, %d idle slots were freed: %s", rows, freed, message)
        return Overloaded(
            "no memory is left for even one row",
            field="memory",
            remedy="retry after a pause; lower --max-batch-rows, --slots, --host-bytes or --device-bytes",
        )


def _compact(images: list[Tensor], rows: list[Row]) -> tuple[list[Tensor], list[Row]]:
    """The images that rows refer to, and the rows with the new numbers of their images."""
    used = list(dict.fromkeys(row.image for row in rows))
    if len(used) == len(images):
        return images, rows
    number = {image: i for i, image in enumerate(used)}
    return [images[image] for image in used], [Row(image=number[r.image], model=r.model) for r in rows]
