"""The engine: images under their models, through one resident backbone.

Runs in one thread. Knows tensors and models; does not know names, requests or metrics' labels. What does
not fit into memory or into the slots at once runs in parts.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petl_vit.batch import Model, Row
from petl_vit.errors import InvalidInput, Overloaded
from petl_vit.slots import Slots
from serving.engine.backend import Backend

_log = logging.getLogger(__name__)

_NO_MEMORY_ON_CPU = ("CPUAllocator", "bad_alloc", "could not create a primitive")
"""What the plain RuntimeErrors of PyTorch, C++ and oneDNN say."""


class EngineMetrics(Protocol):
    """What the engine reports; see `serving.metrics.events`."""

    def batch(self, rows: int, adapters: int, seconds: float) -> None: ...

    def out_of_memory(self) -> None: ...

    def set_row_buffers(self, size: int) -> None: ...


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

    @property
    def nbytes(self) -> int:
        """Of the image, which waits with it."""
        return self.image.nbytes


Logits = list[NDArray[np.float64]]
"""One [C] for each model of a job."""


class Engine:
    """Runs jobs over one backbone; jobs of one image size share a forward.

    Args:
        backend: What computes.
        slots: The adapters it can have at once.
        metrics: Where batch sizes and forward times go.
    """

    def __init__(self, backend: Backend, *, slots: Slots, metrics: EngineMetrics) -> None:
        self._backend, self._slots, self._metrics = backend, slots, metrics
        self.warmed = False

    def warm(self, size: int) -> None:
        """Runs the frozen backbone once at an image size, so that no request pays for the first time."""
        self._backend.warm(size)
        self.warmed = True

    def run(self, jobs: Sequence[Job]) -> list[Logits | Exception]:
        """The logits of every job, in order; the error of one that cannot be run at all."""
        answers: list[Logits | Exception] = [[] for _ in jobs]
        for size in sorted({job.image.shape[-1] for job in jobs}):
            members = [i for i, job in enumerate(jobs) if job.image.shape[-1] == size]
            found = self._run_size([jobs[i] for i in members])
            for i, logits in zip(members, found, strict=True):
                answers[i] = logits
        return answers

    def _run_size(self, jobs: list[Job]) -> list[Logits | Exception]:
        images = [job.image for job in jobs]
        rows = [Row(image=i, model=model) for i, job in enumerate(jobs) for model in job.models]
        found: list[Tensor | Exception] = []
        for part in self._parts(rows):
            found.extend(self._forward(images, part))
        answers: list[Logits | Exception] = []
        start = 0
        for job in jobs:
            own = found[start : start + job.rows]
            start += job.rows
            failed = next((one for one in own if isinstance(one, Exception)), None)
            answers.append(failed or [z.double().numpy() for z in own if isinstance(z, Tensor)])
        return answers

    def _parts(self, rows: list[Row]) -> list[list[Row]]:
        """Rows in runs whose adapters fit into the slots together."""
        most, digests = self._slots.count, set[str]()
        parts: list[list[Row]] = [[]]
        for row in rows:
            more = digests.union(row.model.digests)
            if parts[-1] and most is not None and len(more) > most:
                parts.append([])
                more = set(row.model.digests)
            parts[-1].append(row)
            digests = more
        return parts

    def _forward(self, images: list[Tensor], rows: list[Row]) -> list[Tensor | Exception]:
        """One forward; where memory runs out, or slots do, two of half the rows."""
        started, out_of_memory = time.monotonic(), ""
        try:
            found = self._backend.logits(*_compact(images, rows))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _no_memory(error):
                raise
            out_of_memory = str(error) or type(error).__name__
        except Overloaded as error:
            problem: Exception = error
        else:
            adapters = {digest for row in rows for digest in row.model.digests}
            self._metrics.batch(len(rows), len(adapters), time.monotonic() - started)
            self._metrics.set_row_buffers(self._slots.buffer_bytes)
            return list(found)
        if out_of_memory:  # only now has the error let go of the forward's tensors
            problem = self._relieved(out_of_memory, len(rows))
        if len(rows) == 1:
            return [self._never_fits(rows[0].model) or problem]
        half = len(rows) // 2
        return self._forward(images, rows[:half]) + self._forward(images, rows[half:])

    def _never_fits(self, model: Model) -> Exception | None:
        """What to say of a model that no pause makes room for."""
        most, needed = self._slots.count, len(set(model.digests))
        if most is None or needed <= most:
            return None
        return InvalidInput(
            f"a sum of {needed} adapters does not fit into {most} slots",
            field="slots",
            remedy="sum fewer adapters, or start the server with more --slots",
        )

    def _relieved(self, said: str, rows: int) -> Exception:
        """Gives back what nobody needs, so that the next and smaller try has more room."""
        freed = self._slots.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._metrics.out_of_memory()
        _log.warning("out of memory at %d rows, %d idle slots were freed: %s", rows, freed, said)
        return Overloaded(
            "no memory is left for even one row",
            field="memory",
            remedy="retry after a pause; lower --max-batch-rows, --slots, --host-bytes or --device-bytes",
        )


def _compact(images: list[Tensor], rows: list[Row]) -> tuple[list[Tensor], list[Row]]:
    """The images that rows have, and the rows with their new numbers."""
    used = list(dict.fromkeys(row.image for row in rows))
    if len(used) == len(images):
        return images, rows
    number = {image: i for i, image in enumerate(used)}
    return [images[image] for image in used], [Row(image=number[r.image], model=r.model) for r in rows]


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(said in str(error) for said in _NO_MEMORY_ON_CPU)
