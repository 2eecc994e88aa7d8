"""One batch of rows under LoRA adapters, by everything that can answer it in this process.

Shapes: B rows, C classes.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.adapters import adapter, backbone, tensors
from benchmarks.backends import CPU
from benchmarks.interleave import Costs, cpu_seconds
from benchmarks.peers_inside.copies import Copies, merged
from benchmarks.peers_inside.grouped import Grouped
from benchmarks.peers_inside.peft_model import PeftModel
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.device import has_bf16
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT

OURS, AUTO = "corolla", "corolla, auto"
PLAIN, COPIES, PEFT, GROUPED = "timm, no adapter", "merged copies", "peft adapter_names", "group by adapter"
ROWS = 32
TOLERANCE = 1e-3

Run = Callable[[Tensor], Tensor]
"""[B, 3, S, S] -> [B, C]."""


def measure(architecture: str, image_size: int, *, adapters: int, rounds: int) -> Costs:
    """CPU seconds of one batch of 32 rows that take turns over the adapters.

    Raises:
        RuntimeError: A candidate gives other results than ours.
    """
    vit, plain = backbone(architecture, image_size)
    images = torch.randn(ROWS, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    which = [i % adapters for i in range(ROWS)]
    found = _candidates(vit, plain, which)
    reference = found[OURS](images)
    for name, logits in found.items():
        check_same(name, logits(images).numpy(), reference.numpy())
    variants = {name: partial(logits, images) for name, logits in found.items()}
    if has_bf16(CPU):
        variants[AUTO] = partial(_mixed(vit, which, on=vit.in_precision(Precision.BF16)), images)
    return cpu_seconds(variants | {PLAIN: partial(_plain, plain, images)}, rounds=rounds, warmup=0)


def check_same(name: str, theirs: NDArray[np.floating], ours: NDArray[np.floating]) -> None:
    """A candidate that computes something else is no peer.

    Raises:
        RuntimeError: The largest difference is above 1e-3 of the largest value.
    """
    error = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not error <= TOLERANCE:
        raise RuntimeError(f"{name} gives other results than ours: relative error {error:.2g}")


def _candidates(vit: FrozenViT, plain: nn.Module, which: Sequence[int]) -> dict[str, Run]:
    loras = [tensors("lora", vit, seed) for seed in range(max(which) + 1)]
    copies = Copies([merged(lora, vit) for lora in loras])
    peft = PeftModel(plain, loras)
    grouped = Grouped(Batch(vit), _models(vit, len(loras)))
    return {
        OURS: _mixed(vit, which),
        COPIES: lambda images: copies.logits(images, which),
        PEFT: lambda images: peft.logits(images, which),
        GROUPED: lambda images: grouped.logits(images, which),
    }


def _mixed(vit: FrozenViT, which: Sequence[int], *, on: FrozenViT | None = None) -> Run:
    batch, models = Batch(vit if on is None else on), _models(vit, max(which) + 1, on=on)
    rows = [Row(image=i, model=models[number]) for i, number in enumerate(which)]
    return lambda images: torch.stack(batch.logits(images, rows))


def _models(vit: FrozenViT, count: int, *, on: FrozenViT | None = None) -> list[Model]:
    return [Model([Term(adapter=adapter("lora", vit, seed, on=on))]) for seed in range(count)]


@torch.inference_mode()
def _plain(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits
