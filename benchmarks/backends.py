"""What the engine's back ends gain over timm's own eager forward in fp32, and whether they agree with it.

    python -m benchmarks.backends --quick

ViT-S/16 at 224 px under one LoRA, at batch 1 and 8, CPU time, interleaved. Agreement is counted on images of
ten random textures with a head fitted to tell them apart, so that answers are as clear as a trained model's.

best_over_eager_b1, best_over_eager_b8: the fastest back end that this machine can run, besides PyTorch's
fp32. top1_agreement: of all of them with its answers. All three are null where there is none.
onnx_over_eager_b1, onnx_over_eager_b8: ONNX Runtime's, in fp32; null where it is not installed.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from benchmarks.adapters import CLASSES, backbone, base_head, tensors
from benchmarks.interleave import Costs, cpu_seconds, speed
from benchmarks.precisions import CPU, NO_BF16
from benchmarks.report import emit, parser, progress
from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Model, Row, Term
from petl_vit.device import has_bf16
from petl_vit.heads import LinearHead
from petl_vit.precision import Precision
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import Backend, TorchBackend
from serving.onnx.backend import OnnxBackend

EAGER, FP32, BF16, ONNX = "timm, eager fp32", "torch fp32", "torch bf16", "ONNX Runtime fp32"
BATCHES = (1, 8)
RIDGE = 1e-3
NOISE = 1.0

Run = Callable[[Tensor], Tensor]
"""Images [B, 3, S, S] to logits [B, C]."""


def measure(vit: FrozenViT, plain: nn.Module, found: Mapping[str, Run], rounds: int) -> dict[int, Costs]:
    """CPU seconds of every back end and of timm, by batch size."""
    taken = {}
    for rows in BATCHES:
        progress(f"batch {rows}")
        images = _noise(rows, vit.arch.image_size, seed=0)
        variants = {name: partial(run, images) for name, run in found.items()}
        # A batch of eight takes about as long as eight of one.
        often = rounds * max(BATCHES) // rows
        taken[rows] = cpu_seconds(variants | {EAGER: partial(_eager, plain, images)}, rounds=often)
    return taken


@torch.inference_mode()
def _eager(plain: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = plain(images)
    return logits


# The back ends


def back_ends(vit: FrozenViT, head: LinearHead, *, emulated: bool = False) -> dict[str, Run]:
    """Every back end that this machine can run, under one LoRA with a given head.

    Args:
        emulated: Take bf16 too where there is no hardware for it.
    """
    found = {FP32: torch_back_end(vit, head)}
    if emulated or has_bf16(CPU):
        found[BF16] = torch_back_end(vit.in_precision(Precision.BF16), head)
    if has_onnx():
        found[ONNX] = _onnx(vit, head)
    return found


def has_onnx() -> bool:
    """Whether ONNX Runtime, and what writes its graphs, are installed."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def _onnx(vit: FrozenViT, head: LinearHead) -> Run:
    backend = OnnxBackend(lambda size: vit, Slots(aliased=False), threads=torch.get_num_threads())
    return _under_lora(backend, vit, head)


def torch_back_end(vit: FrozenViT, head: LinearHead) -> Run:
    """PyTorch's, under one LoRA, in the precision of the backbone."""
    backend = TorchBackend(lambda size: vit, Slots())
    return _under_lora(backend, vit, head)


def _under_lora(backend: Backend, vit: FrozenViT, head: LinearHead) -> Run:
    lora = Adapter.load(
        digest="lora",
        method=methods.get("lora")(),
        tensors=tensors("lora", vit, 0) | head.tensors(),
        vit=vit,
        base_head=head,
        task_digest="task",
    )
    model = Model([Term(adapter=lora)])

    def run(images: Tensor) -> Tensor:
        rows = [Row(image=i, model=model) for i in range(len(images))]
        return torch.stack(backend.logits(list(images), rows))

    return run


# Agreement


def agreement(vit: FrozenViT, images: int, *, emulated: bool = False) -> tuple[float, float]:
    """The share of images for which every back end answers as fp32 does, and the accuracy of fp32."""
    head = fitted_head(vit, *textures(vit.arch.image_size, images, seed=0))
    shown, classes = textures(vit.arch.image_size, images, seed=1)
    found = back_ends(vit, head, emulated=emulated)
    answers = torch.stack([_in_parts(run, shown).argmax(dim=1) for run in found.values()])
    exact = answers[list(found).index(FP32)]
    same, right = (answers == exact).all(dim=0), exact == classes
    return float(same.float().mean()), float(right.float().mean())


def fitted_head(vit: FrozenViT, shown: Tensor, classes: Tensor) -> LinearHead:
    """A head that tells the textures apart, by ridge regression on features under the LoRA."""
    width = vit.arch.width
    identity = LinearHead(weight=torch.eye(width), bias=torch.zeros(width))
    features = _in_parts(torch_back_end(vit, identity), shown)
    mean = features.mean(dim=0)
    centred = (features - mean).double()
    ridge = centred.T @ centred + RIDGE * centred.square().mean() * len(centred) * torch.eye(width)
    weight = torch.linalg.solve(ridge, centred.T @ F.one_hot(classes, CLASSES).double()).T.float()
    return LinearHead(weight=weight, bias=-weight @ mean)


def textures(size: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [n, 3, S, S] of ten textures, each with noise of its own, and their classes [n]."""
    coarse = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic")
    classes = torch.arange(count) % CLASSES
    return smooth[classes] + NOISE * _noise(count, size, seed), classes


def _noise(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def _in_parts(run: Run, images: Tensor) -> Tensor:
    return torch.cat([run(part) for part in images.split(32)])


# Figures


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--images", type=int, help="whose answers are compared")
    flags.add_argument("--rounds", type=int)
    asked = flags.parse_args(given)
    rounds = asked.rounds or (5 if asked.quick else 25)
    vit, plain = backbone(asked.architecture, asked.image_size)
    found = back_ends(vit, base_head(vit))
    taken = measure(vit, plain, found, rounds)
    over = {rows: {name: speed(c, name, EAGER) for name in found} for rows, c in taken.items()}
    images = asked.images or (200 if asked.quick else 600)
    agreed, accuracy = agreement(vit, images) if len(found) > 1 else (None, None)
    columns = [f"batch {rows}, {what}" for what in ("CPU ms", "speed / eager") for rows in BATCHES]
    table = Table("back end", *columns, title=f"{asked.architecture}, {asked.image_size} px")
    for name in (EAGER, *found):
        times = [f"{1000 * statistics.median(taken[rows][name]):.1f}" for rows in BATCHES]
        table.add_row(name, *times, *(str(over[rows].get(name, 1)) for rows in BATCHES))
    best = {rows: max((r for n, r in over[rows].items() if n != FP32), default=None) for rows in BATCHES}
    emit(
        "backends",
        [table],
        {
            "architecture": asked.architecture,
            "image_size": asked.image_size,
            "quick": asked.quick,
            "best_over_eager_b1": best[1],
            "best_over_eager_b8": best[8],
            "onnx_over_eager_b1": over[1].get(ONNX),
            "onnx_over_eager_b8": over[8].get(ONNX),
            "top1_agreement": agreed,
            "top1_accuracy": accuracy,
            "reason": None if BF16 in found else NO_BF16,
            "over_eager_b1": over[1],
            "over_eager_b8": over[8],
        },
    )


if __name__ == "__main__":
    main()
