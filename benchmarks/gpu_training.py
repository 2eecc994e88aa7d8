"""A step of training a LoRA in bfloat16: our trainer against PEFT's model in a plain loop.

Where the time of an epoch of each goes, kernel by kernel, is in gpu_training_profile.txt, and a trace of each
beside it. Kernels that together take much less than the epoch wait for the host.

Shapes: b images of a step, S image size.
"""

import copy
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from benchmarks.adapters import CLASSES, base_head
from benchmarks.gpu_forward import PROFILED, Stage, profiled
from benchmarks.gpu_setting import Found
from petl_vit import methods
from training.data.loading import sent
from training.run.precision import frozen
from training.run.recipe import Recipe
from training.run.trainer import Trainer

RANK = 8
RATE = 1e-3


class Resident:
    """Random images and labels on the device."""

    def __init__(self, count: int, size: int, device: torch.device) -> None:
        self._images = torch.randn(count, 3, size, size, device=device)
        self.labels = torch.arange(count) % CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
        return self._images[sent(indices, self._images.device)]


def step(stage: Stage) -> Found:
    """Seconds of a step, ours over PEFT's."""
    setting = stage.setting
    images = Resident(setting.steps * setting.batch, setting.image_size, setting.device)
    ours, theirs = "corolla", "peft"
    rounds = max(2, setting.rounds // 2)
    runs = rounds + setting.warmup + PROFILED
    variants = {ours: _ours(stage, images, runs), theirs: _peft(stage, images)}
    taken = setting.costs(variants, rounds=rounds)
    profiled(variants, setting, "gpu_training")
    per_step = {name: 1000 * statistics.median(seconds) / setting.steps for name, seconds in taken.items()}
    ratio = statistics.median(a / b for a, b in zip(taken[ours], taken[theirs], strict=True))
    shown = Table("trainer", "ms a step (median)", title=f"LoRA r={RANK}, {setting.batch} images, bf16")
    for name, found in per_step.items():
        shown.add_row(name, f"{found:.2f}")
    return Found(figures={"train_step_over_peft": ratio, "train_step_ms": per_step[ours]}, tables=[shown])


def _ours(stage: Stage, images: Resident, runs: int) -> Callable[[], object]:
    """An epoch by a trainer that has not begun, so many times."""
    recipe = Recipe.of(
        method="lora",
        config={"rank": RANK, "dropout": 0.0},
        epochs=1,
        batch_size=stage.setting.batch,
        learning_rate=RATE,
        drop_path=0.0,
        precision="bf16",
    )
    method = methods.get("lora").configure(recipe.config)
    on = frozen(stage.host, "bf16", stage.setting.device)
    trainers = [Trainer(stage.host, method, base_head(stage.host), recipe, on=on) for _ in range(runs)]
    return lambda: trainers.pop().run(images)


def _peft(stage: Stage, images: Resident) -> Callable[[], object]:
    """As many steps of PEFT's model, without ever looking at the loss."""
    from peft import LoraConfig, get_peft_model  # seconds, of which the other sections need none

    setting = stage.setting
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["qkv"], modules_to_save=["head"])
    model = get_peft_model(copy.deepcopy(stage.plain_host), config).to(setting.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)

    def run() -> None:
        for indices in torch.arange(len(images)).split(setting.batch):
            with torch.autocast(setting.device.type, dtype=torch.bfloat16):
                labels = sent(images.labels[indices], setting.device)
                loss = F.cross_entropy(model(images.batch(indices)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run
