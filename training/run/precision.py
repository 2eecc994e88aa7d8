"""What training computes in: the frozen backbone in fp32 or bf16; what is trained is always fp32."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model_store.resolution.loading import Loader
from model_store.resolution.precision import TOLERANCE, probes
from model_store.store import Store
from petl_vit.device import chosen_device, has_bf16
from petl_vit.errors import NotFound, Unsupported
from petl_vit.executors.joint import Joint, Learner
from petl_vit.methods.lora import LoRA
from petl_vit.products import in_bf16
from petl_vit.vit import FrozenViT
from training.run.recipe import Precision

if TYPE_CHECKING:
    from training.run.job import Job

_ROUNDS = 3
"""Steps in each precision; the fastest of each counts."""
_IMAGES = 2


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse bf16 on a GPU that only emulates it.

    Raises:
        Unsupported: It does.
    """
    native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not native:
        raise Unsupported(
            "this GPU does not compute in bf16", field="precision", remedy="use --precision fp32"
        )


def settled(store: Store, jobs: "Sequence[Job]", note: Callable[[str], None]) -> "list[Job]":
    """The jobs with fp32 or bf16 in place of auto, which is decided once for all of them.

    A recipe's digest tells the precisions apart, so this comes before any digest.

    Args:
        note: Called with what was chosen, and why.
    """
    if all(job.recipe.precision != "auto" for job in jobs):
        return list(jobs)
    precision = _chosen(store, jobs[0], note)
    return [
        replace(job, recipe=job.recipe.model_copy(update={"precision": precision}))
        if job.recipe.precision == "auto"
        else job
        for job in jobs
    ]


def _chosen(store: Store, job: "Job", note: Callable[[str], None]) -> Precision:
    device = chosen_device(job.device)
    if not has_bf16(device):
        return "fp32"
    backbone = store.backbones.get(job.backbone)
    size = job.input.image_size or backbone.config.image_size
    with suppress(NotFound):  # the task is new
        size = store.tasks.get(job.task, backbone.digest).spec.preprocess.image_size
    vit = Loader(store, backbone).vit(size)
    speed, difference = compared(vit, device)
    found = f"a step in bf16 takes {1 / speed:.2f} of one in fp32, and features change by {difference:.1%}"
    if difference <= TOLERANCE and speed > 1:
        note(f"training in bf16: {found}")
        return "bf16"
    note(f"training in fp32: {found}")
    return "fp32"


def compared(vit: FrozenViT, device: torch.device) -> tuple[float, float]:
    """How fast a step in bf16 is relative to one in fp32, and the largest difference of frozen features.

    The difference is relative to the largest feature.
    """
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    vits = {precision: frozen(vit, precision, device) for precision in precisions}
    images = probes(vit.arch.image_size)[:_IMAGES].to(device)
    seconds = dict.fromkeys(precisions, float("inf"))
    features: dict[Precision, Tensor] = {}
    for _ in range(_ROUNDS):
        for precision, on in vits.items():
            started = time.perf_counter()
            features[precision] = _step(on, images).detach().cpu()  # which waits for a GPU
            seconds[precision] = min(seconds[precision], time.perf_counter() - started)
    exact, rounded = features["fp32"], features["bf16"]
    difference = float((rounded - exact).abs().max() / exact.abs().max().clamp_min(1e-12))
    return seconds["fp32"] / seconds["bf16"], difference


def _step(vit: FrozenViT, images: Tensor) -> Tensor:
    """The features [b, D] of a forward, after its backward: a LoRA that starts as the identity."""
    method = LoRA(dropout=0.0)
    start = method.init(vit, torch.Generator().manual_seed(0))
    tensors = {name: t.to(vit.device).requires_grad_() for name, t in start.items()}
    edits = method.edits(vit, tensors)
    learner = Learner(rows=len(images), edits=edits, drop_path=0.0, noise=None)
    features = vit.forward(images, Joint(vit, [learner]))
    features.sum().backward()
    return features


def frozen(vit: FrozenViT, precision: Precision, device: torch.device | None = None) -> FrozenViT:
    """The backbone as training runs it, on its own device if none is named.

    With bf16 its linears and its patch convolution are bfloat16, nearly all of its bytes. Norms, LayerScale
    and embeddings stay float32, as the residual stream does.

    Args:
        precision: Not auto; see `settled`.
    """
    assert precision != "auto"
    params = in_bf16(vit.params) if precision == "bf16" else vit.params
    placed = copy.copy(vit)
    placed.params = {name: p.to(device=device) for name, p in params.items()}
    return placed
