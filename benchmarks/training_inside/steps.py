"""Steps of training over random images: ours, and PEFT's model in a plain loop.

Shapes: b images of a step, S image size, C classes.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.adapters import CLASSES, backbone, base_head
from petl_vit import methods
from petl_vit.vit import FrozenViT
from training.run.feed import Batch
from training.run.memory import at_once
from training.run.precision import frozen
from training.run.recipe import Precision, Recipe
from training.run.trainer import Trainer, gradients

RANK = 8
_RATE = 1e-4
_ALIKE = {"fp32": 1e-3, "bf16": 5e-2}
"""How far PEFT's loss and gradient may be from ours, relative to ours."""

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What steps run on.

    Attributes:
        batch: Images of a step.
    """

    architecture: str
    image_size: int
    batch: int
    precision: Precision

    @cached_property
    def _both(self) -> tuple[FrozenViT, nn.Module]:
        return backbone(self.architecture, self.image_size)

    @cached_property
    def vit(self) -> FrozenViT:
        return self._both[0]

    @property
    def plain(self) -> nn.Module:
        """timm's model on the same weights."""
        return self._both[1]

    @cached_property
    def on(self) -> FrozenViT:
        return frozen(self.vit, self.precision)

    @cached_property
    def images(self) -> Batch:
        random = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, self.image_size, self.image_size, generator=random)
        return Batch(inputs=images, labels=torch.arange(self.batch) % CLASSES)

    def trainer(self, method: str, *, noise: bool = True, given_features: bool = False) -> Trainer:
        """A trainer of a method at its default settings.

        Args:
            noise: Whether it has its default dropout, and drop path; PEFT's LoRA is compared without.
        """
        kind = methods.get(method)
        config = {} if noise or "dropout" not in kind.model_fields else {"dropout": 0.0}
        recipe = Recipe.of(
            method=method,
            config=config,
            epochs=1,
            batch_size=self.batch,
            learning_rate=_RATE,
            drop_path=kind.drop_path if noise else 0.0,
            precision=self.precision,
        )
        start = kind.configure(config)
        return Trainer(
            self.vit, start, base_head(self.vit), recipe, on=self.on, given_features=given_features
        )


class Several:
    """Two batches of random images."""

    def __init__(self, ground: Ground) -> None:
        one = ground.images
        self._inputs, self.labels = torch.cat([one.inputs, one.inputs.flip(-1)]), one.labels.repeat(2)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: Tensor, augment: torch.Generator | None = None, *, mirrored: bool = False
    ) -> Tensor:
        return self._inputs[indices]


def ours(ground: Ground, trainers: Sequence[Trainer]) -> Step:
    """A step of trainers in one forward."""
    for trainer in trainers:
        trainer.begin_epoch(0, 10_000)  # far from the end of the rate's cosine

    def run() -> None:
        gradients(trainers, [ground.images], [0] * len(trainers), at_once(trainers))
        for trainer in trainers:
            trainer.advance()

    return run


class Peft:
    """A LoRA of PEFT on timm's model, as its documentation trains one; autocast in bf16.

    It starts as one of ours does.
    """

    def __init__(self, ground: Ground, like: Trainer) -> None:
        from peft import LoraConfig, get_peft_model  # seconds, of which ours need none

        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["qkv"], modules_to_save=["head"])
        self._model = get_peft_model(copy.deepcopy(ground.plain), config).train()
        self.trained = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        for name, tensor in like.parameters.items():
            own, turned = self._of(name)
            with torch.no_grad():
                own.copy_(tensor.T if turned else tensor)
        self._optimizer = torch.optim.AdamW(self.trained.values(), lr=_RATE, weight_decay=1e-4)
        self._ground = ground

    def _of(self, name: str) -> tuple[Tensor, bool]:
        """The tensor that is called so in ours, and whether it is the transpose of ours."""
        site, _, part = name.rpartition(".")
        kind = {"lora_a": "lora_A", "lora_b": "lora_B"}.get(part)
        ends = f"{site}.{kind}.default.weight" if kind else f"head.modules_to_save.default.{part}"
        return next(p for n, p in self.trained.items() if n.endswith(ends)), kind is not None

    def gradients(self) -> float:
        """Computes the gradients of a step; returns the loss."""
        images = self._ground.images
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._ground.precision == "bf16"):
            loss = F.cross_entropy(self._model(images.inputs), images.labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return float(loss.detach())

    def step(self) -> None:
        self.gradients()
        self._optimizer.step()

    def check(self, trainer: Trainer) -> None:
        """What computes something else is not comparable.

        Raises:
            RuntimeError: Loss or gradients differ from ours.
        """
        trainer.begin_epoch(0, 1)
        loss = float(gradients([trainer], [self._ground.images], [0])[0])
        theirs = self.gradients()
        found = {"loss": abs(theirs - loss) / loss}
        for name, tensor in trainer.parameters.items():
            own, turned = self._of(name)
            if tensor.grad is None or own.grad is None or not tensor.grad.any():
                continue
            grad = own.grad.T if turned else own.grad
            found[name] = float((grad - tensor.grad).norm() / tensor.grad.norm())
        trainer.optimizer.zero_grad(set_to_none=True)
        name = max(found, key=lambda name: found[name])
        if not found[name] <= _ALIKE[self._ground.precision]:
            raise RuntimeError(f"peft's {name} differs from ours by {found[name]:.2g}")
