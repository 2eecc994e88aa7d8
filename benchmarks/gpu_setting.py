"""Where and how much the measurements of `benchmarks.gpu` run, how they tell time, and what they find."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.table import Table

from benchmarks.interleave import Costs, costs
from benchmarks.report import Figure


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        backend: Ours: graph or torch.
        rows: Of a batch, each with an image of its own.
        adapters: Distinct ones in the largest batch of many.
        warmup: Rounds that are not counted.
        modes: Of torch.compile.
        requests: Of one served phase.
        first_answers: Adapters that are asked for a first time.
        steps: Training steps of one round, each of `batch` images.
        folder: Where files go.
    """

    device: torch.device
    backend: str
    folder: Path
    architecture: str = "vit_base_patch16_224"
    image_size: int = 224
    rows: int = 256
    adapters: int = 64
    rounds: int = 20
    warmup: int = 2
    modes: Sequence[str] = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")
    matmul: int = 8192
    requests: int = 2048
    first_answers: int = 40
    steps: int = 10
    batch: int = 64
    jpegs: int = 512

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What the backbone is in; Triton's interpreter on a CPU has no products in bfloat16."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def precision(self) -> str:
        return "bf16" if self.on_gpu else "fp32"

    def costs(self, variants: Mapping[str, Callable[[], object]], *, rounds: int | None = None) -> Costs:
        """Seconds of every variant in every round, interleaved; of what is under way when it returns too."""
        timed = {name: self._timed(run) for name, run in variants.items()}
        return costs(timed, rounds=rounds or self.rounds, warmup=self.warmup)

    def _timed(self, run: Callable[[], object]) -> Callable[[], float]:
        def by_events() -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            run()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000

        def by_clock() -> float:
            started = time.perf_counter()
            run()
            return time.perf_counter() - started

        return by_events if self.on_gpu else by_clock


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a section measured, and what went wrong in parts that others did without."""

    figures: Mapping[str, Figure | Mapping[str, Figure]]
    tables: Sequence[Table] = ()
    errors: Mapping[str, str] = field(default_factory=dict)


def said(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]
