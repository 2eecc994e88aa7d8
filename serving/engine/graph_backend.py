"""The back end of CUDA graphs: one forward, recorded for several numbers of rows, whatever the rows are.

A batch is padded to the next number of rows and replayed; its images, slots and alphas are copied into the
graph's inputs, so that another adapter, method, rank or alpha changes data alone (`kernels`). A large batch
runs in parts: the host fills the inputs of one while the device computes the one before. All
numbers of rows up to `GRAPHS[-1]` are captured when an image size is warmed up; rows of soups take graphs of
their own, captured when the first ones come. Rows whose edits the kernels do not know (full, selective,
VPT-Shallow, VQT, bottlenecks wider than 64), or whose alpha differs by block, run in eager PyTorch on the
same backbone and arena.

On a CPU the same forward runs without graphs, in Triton's interpreter: for tests.

Shapes: B rows of a graph, T edit sets of a row, S image size, D width.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from petl_vit.arena import Arena
from petl_vit.batch import Model, Row, Term, logits_of
from petl_vit.edit_set import size_class
from petl_vit.errors import Unsupported
from petl_vit.executors import kernels
from petl_vit.executors.tabled import Tabled
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import TorchBackend, VitOf

_log = logging.getLogger(__name__)

# To convert the images of the most rows takes a CPU about as long as a GPU takes for their forward.
GRAPHS = (1, 2, 4, 8, 16, 32, 64)
_AHEAD = 2  # parts on their way
_WARM_UPS = 2  # before a capture: kernels are compiled and libraries set up


class GraphBackend:
    """Rows of any mixture in one graph's replay.

    Args:
        vit_of: The backbone at an image size.
        slots: With an arena.
        row_buckets: The numbers of rows to have a graph for, ascending.

    Raises:
        Unsupported: The device has no graphs and its kernels are not interpreted.
    """

    def __init__(self, vit_of: VitOf, slots: Slots, *, row_buckets: Sequence[int] = GRAPHS) -> None:
        if slots.arena is None or not kernels.usable(slots.arena.bank.device):
            raise Unsupported(
                "graphs need a CUDA device", field="backend", remedy="start with --backend torch"
            )
        self._vit_of, self._slots, self._buckets = vit_of, slots, tuple(row_buckets)
        self._arena: Arena = slots.arena
        self._torch = TorchBackend(vit_of, slots)
        self._graphs: dict[tuple[int, int, int], _Graph] = {}  # by image size, rows and terms
        self._pool = torch.cuda.graph_pool_handle() if self._arena.bank.is_cuda else None

    @property
    def captured(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    def warm(self, size: int) -> None:
        """Captures a graph for every number of rows, the largest first, whose memory the others share."""
        for rows in reversed(self._buckets if self._arena.bank.is_cuda else self._buckets[:1]):
            self._graph(size, rows, 1)

    @torch.inference_mode()
    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        answers: dict[int, Tensor] = {}
        with self._slots.running([term.adapter for row in rows for term in row.model.terms]):
            tabled = [i for i, row in enumerate(rows) if self._is_tabled(row.model)]
            tabled.sort(key=lambda i: rows[i].model.key)  # neighbours share the product of their head
            begun: deque[tuple[list[int], Callable[[], list[Tensor]]]] = deque()
            for part in self._parts(tabled):
                if len(begun) == _AHEAD:
                    answers |= _finished(*begun.popleft())
                begun.append((part, self._begin(images, [rows[i] for i in part])))
            for part, logits in begun:
                answers |= _finished(part, logits)
        loose = [i for i in range(len(rows)) if i not in answers]
        if loose:
            answers |= zip(loose, self._torch.logits(images, [rows[i] for i in loose]), strict=True)
        return [answers[i] for i in range(len(rows))]

    def _is_tabled(self, model: Model) -> bool:
        if model.exact_on is not None or model.by_block:
            return False
        return all(self._slots.number(term.adapter) >= 0 for term in _terms(model))

    def _parts(self, members: list[int]) -> list[list[int]]:
        size = self._buckets[-1]
        return [members[start : start + size] for start in range(0, len(members), size)]

    def _begin(self, images: Sequence[Tensor], rows: Sequence[Row]) -> Callable[[], list[Tensor]]:
        """Starts a part; what waits for its logits."""
        terms = [_terms(row.model) for row in rows]
        bucket = next(size for size in self._buckets if size >= len(rows))
        graph = self._graph(images[0].shape[-1], bucket, size_class(max(map(len, terms))))
        numbers = [[self._slots.number(term.adapter) for term in of_row] for of_row in terms]
        alphas = [[term.alphas[0] for term in of_row] for of_row in terms]
        used = list(dict.fromkeys(row.image for row in rows))
        place = {image: i for i, image in enumerate(used)}
        sources, models = [place[row.image] for row in rows], [row.model for row in rows]
        features = graph.begin([images[i] for i in used], sources, numbers, alphas)
        return lambda: logits_of(features(), models)

    def _graph(self, size: int, rows: int, terms: int) -> "_Graph":
        key = (size, rows, terms)
        if key not in self._graphs:
            started = time.monotonic()
            self._graphs[key] = _Graph(self._vit_of(size), self._arena, rows, terms, self._pool)
            _log.info(
                "captured a graph for %d rows of %d px in %.1f s", rows, size, time.monotonic() - started
            )
        return self._graphs[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Inputs:
    """What a forward reads besides parameters and arena.

    Attributes:
        images: [B, 3, S, S], in the dtype of the backbone's products; sources: [B], each row's image.
        slots, alphas: [T, B].
    """

    images: Tensor
    sources: Tensor
    slots: Tensor
    alphas: Tensor

    @classmethod
    def empty(cls, vit: FrozenViT, rows: int, terms: int, *, pinned: bool = False) -> "_Inputs":
        size, on = vit.arch.image_size, torch.device("cpu") if pinned else vit.device

        def tensor(*shape: int, dtype: torch.dtype = torch.float32, value: int = 0) -> Tensor:
            pin = pinned and vit.device.type == "cuda"
            return torch.full(shape, value, dtype=dtype, device=on, pin_memory=pin)

        return cls(
            images=tensor(rows, 3, size, size, dtype=vit.product_dtype),
            sources=tensor(rows, dtype=torch.int64),
            slots=tensor(terms, rows, dtype=torch.int32, value=-1),
            alphas=tensor(terms, rows),
        )

    def copy_(self, other: "_Inputs", images: int) -> None:
        """Copies another's values, and so many of its images."""
        self.images[:images].copy_(other.images[:images], non_blocking=True)
        self.sources.copy_(other.sources, non_blocking=True)
        self.slots.copy_(other.slots, non_blocking=True)
        self.alphas.copy_(other.alphas, non_blocking=True)


class _Host:
    """The host's side of a graph: its inputs and features, in pinned memory where there is a GPU."""

    def __init__(self, vit: FrozenViT, rows: int, terms: int) -> None:
        self.inputs = _Inputs.empty(vit, rows, terms, pinned=True)
        on_gpu = vit.device.type == "cuda"
        self.features = torch.empty(rows, vit.arch.features, dtype=vit.dtype, pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None

    def fill(
        self,
        images: Sequence[Tensor],
        sources: Sequence[int],
        slots: Sequence[Sequence[int]],
        alphas: Sequence[Sequence[float]],
    ) -> None:
        """Writes a batch into the inputs, once the device has read the one before."""
        self.wait()
        into = self.inputs
        for place, image in zip(into.images, images, strict=False):
            place.copy_(image)
        into.sources.zero_()
        into.sources.numpy()[: len(sources)] = sources
        into.slots.fill_(-1)
        numbers, weights = into.slots.numpy(), into.alphas.numpy()
        for row, (of_row, factors) in enumerate(zip(slots, alphas, strict=True)):
            numbers[: len(of_row), row], weights[: len(of_row), row] = of_row, factors

    def take(self, features: Tensor) -> None:
        """Starts to copy what the device computed."""
        self.features[: len(features)].copy_(features, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> None:
        """Waits until the device has read the inputs and written the features."""
        if self._copied is not None:
            self._copied.synchronize()


class _Graph:
    """The forward of B rows with at most T edit sets each.

    Args:
        pool: Memory that graphs share, as only one runs at a time; None where there are no graphs.
    """

    def __init__(self, vit: FrozenViT, arena: Arena, rows: int, terms: int, pool: Any) -> None:
        self._vit, self._arena = vit, arena
        self._hosts = cycle([_Host(vit, rows, terms) for _ in range(_AHEAD)])
        self._inputs = _Inputs.empty(vit, rows, terms)
        self._replay: Callable[[], Tensor] = self._forward
        if pool is not None:
            self._replay = self._captured(pool)

    @torch.inference_mode()
    def begin(
        self,
        images: Sequence[Tensor],
        sources: Sequence[int],
        slots: Sequence[Sequence[int]],
        alphas: Sequence[Sequence[float]],
    ) -> Callable[[], Tensor]:
        """Starts a batch; at most two of a graph are on their way.

        Args:
            images: Each [3, S, S] float32.
            sources: Each row's image.
            slots, alphas: Each row's edit sets.

        Returns:
            What waits for the features [rows, D], on the host.
        """
        host, count = next(self._hosts), len(sources)
        host.fill(images, sources, slots, alphas)
        self._inputs.copy_(host.inputs, len(images))
        host.take(self._replay()[:count])

        def features() -> Tensor:
            host.wait()
            return host.features[:count].clone()

        return features

    def _forward(self) -> Tensor:
        vit, inputs = self._vit, self._inputs
        # Triton's interpreter cannot multiply in bfloat16.
        rows = kernels.Rows(
            slots=inputs.slots,
            alphas=inputs.alphas,
            bank=self._arena.bank,
            table=self._arena.table,
            products=vit.product_dtype if self._arena.bank.is_cuda else self._arena.bank.dtype,
        )
        patches = vit.narrow_patches(inputs.images, vit.params)
        run = Tabled(vit, self._arena.layout, rows)
        return vit.features(patches, run, {0: inputs.sources})

    @torch.inference_mode()
    def _captured(self, pool: Any) -> Callable[[], Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            features = self._forward()

        def replay() -> Tensor:
            graph.replay()
            return features

        return replay


def _finished(part: list[int], logits: Callable[[], list[Tensor]]) -> dict[int, Tensor]:
    return dict(zip(part, logits(), strict=True))


def _terms(model: Model) -> list[Term]:
    return [term for term in model.edited if term.adapter.edits.edits]
