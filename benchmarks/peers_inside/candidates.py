"""One batch of rows under LoRA adapters, by everything that can answer it in this process.

Shapes: B rows, C classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.adapters import adapter, backbone, plain_forward, tensors
from benchmarks.interleave import Costs, cpu_seconds
from benchmarks.peers_inside.copies import Copies, merged
from benchmarks.peers_inside.grouped import Grouped
from benchmarks.peers_inside.peft_model import PeftModel
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT

OURS, AUTO = "corolla", "corolla, auto"
PLAIN, COPIES, PEFT, GROUPED = "timm, no adapter", "merged copies", "peft adapter_names", "group by adapter"
ROWS = 32
TOLERANCE = {Precision.FP32: 1e-3, Precision.BF16: 1e-1}
"""Of the largest logit. All of a peer's forward is in bf16, moving logits; another adapter moves more."""

Run = Callable[[], Tensor]
"""The logits [B, C] of the batch."""


def measure(
    architecture: str,
    image_size: int,
    precision: Precision = Precision.FP32,
    *,
    adapters: int,
    rounds: int,
    auto: bool = False,
) -> Costs:
    """CPU seconds of one batch of 32 rows that take turns over the adapters.

    Args:
        precision: Of everybody: of all of a peer's forward, and of our frozen products.
        auto: Whether ours in bf16 is measured beside the others, too.

    Raises:
        RuntimeError: A candidate gives other results than ours.
    """
    vit, plain = backbone(architecture, image_size)
    images = torch.randn(ROWS, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    which = [i % adapters for i in range(ROWS)]
    found = _candidates(vit, plain, images, which, precision)
    reference = found[OURS]().float().numpy()
    for name, logits in found.items():
        check_same(name, logits().float().numpy(), reference, TOLERANCE[precision])
    if auto:
        found[AUTO] = _mixed(vit, images, which, Precision.BF16)
    found[PLAIN] = plain_forward(plain, images, precision)
    return cpu_seconds(found, rounds=rounds, warmup=0)


def check_same(
    name: str,
    theirs: NDArray[np.floating],
    ours: NDArray[np.floating],
    tolerance: float = TOLERANCE[Precision.FP32],
) -> None:
    """A candidate that computes something else is no peer.

    Raises:
        RuntimeError: The largest difference is above so much of the largest value.
    """
    error = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not error <= tolerance:
        raise RuntimeError(f"{name} gives other results than ours: relative error {error:.2g}")


def _candidates(
    vit: FrozenViT, plain: nn.Module, images: Tensor, which: Sequence[int], precision: Precision
) -> dict[str, Run]:
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    theirs, on = images.to(dtype), vit.in_precision(precision)
    loras = [tensors("lora", vit, seed) for seed in range(max(which) + 1)]
    copies = Copies([merged(lora, vit).to(dtype) for lora in loras])
    peft = PeftModel(plain, loras, dtype)
    grouped = Grouped(Batch(on), _models(vit, len(loras), on))
    return {
        OURS: _mixed(vit, images, which, precision),
        COPIES: lambda: copies.logits(theirs, which),
        PEFT: lambda: peft.logits(theirs, which),
        GROUPED: lambda: grouped.logits(images, which),
    }


def _mixed(vit: FrozenViT, images: Tensor, which: Sequence[int], precision: Precision) -> Run:
    on = vit.in_precision(precision)
    batch, models = Batch(on), _models(vit, max(which) + 1, on)
    rows = [Row(image=i, model=models[number]) for i, number in enumerate(which)]
    return lambda: torch.stack(batch.logits(images, rows))


def _models(vit: FrozenViT, count: int, on: FrozenViT) -> list[Model]:
    return [Model([Term(adapter=adapter("lora", vit, seed, on=on))]) for seed in range(count)]
