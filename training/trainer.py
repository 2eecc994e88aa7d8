"""The training loop: one adapter and its head over the frozen forward.

Knows tensors, not files or names. Randomness comes from the recipe's seed and the epoch alone, so a
run that resumes after an epoch gives the same result as one that was never stopped.

Shapes: n images, b of a step, S image size, C classes.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.errors import InvalidInput
from petl_vit.executors import Functional
from petl_vit.heads import Head
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT
from training.recipe import Recipe


class Images(Protocol):
    """Labelled images, ready for the backbone."""

    labels: Tensor

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
        """[b, 3, S, S], normalised, on the backbone's device; augmented if a generator is given."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run produced, on the CPU in float32."""

    tensors: dict[str, Tensor]
    head: Head
    losses: list[float]


class Trainer:
    """Trains one adapter.

    Args:
        vit: The backbone, float32.
        method: The method with its config.
        base_head: Where the head starts with `head_init` probe.
        recipe: The hyper-parameters.
        save: Called with the state after every epoch.
    """

    def __init__(
        self,
        vit: FrozenViT,
        method: Method,
        base_head: Head,
        recipe: Recipe,
        *,
        save: Callable[[dict[str, Any]], None] = lambda state: None,
    ) -> None:
        self._vit, self._method, self._recipe, self._save = vit, method, recipe, save
        generator = torch.Generator().manual_seed(recipe.seed)
        tensors = method.init(vit.to(device=torch.device("cpu")), generator)
        random = base_head.redrawn(generator)
        self._start = base_head if recipe.head_init == "probe" else random
        self._tensors = {name: _trainable(t, vit.device) for name, t in tensors.items()}
        self._head = {name: _trainable(t, vit.device) for name, t in self._start.tensors().items()}
        self._optimizer = torch.optim.AdamW(
            [*self._tensors.values(), *self._head.values()],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self._epoch = 0
        self._losses: list[float] = []

    def resume(self, state: dict[str, Any]) -> int:
        """Goes on from a saved state; returns the number of epochs that are done."""
        with torch.no_grad():
            for own, saved in ((self._tensors, state["tensors"]), (self._head, state["head"])):
                for name, tensor in own.items():
                    tensor.copy_(saved[name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._epoch, self._losses = state["epoch"], list(state["losses"])
        return self._epoch

    def steps(self, images: Images) -> int:
        """Optimiser steps of one epoch."""
        return math.ceil(len(images) / self._recipe.batch_size)

    def run(self, images: Images, *, progress: Callable[[float], None] = lambda loss: None) -> Trained:
        """Trains the epochs that are left.

        Raises:
            InvalidInput: The loss is no longer finite.
        """
        while self._epoch < self._recipe.epochs:
            self._losses.append(self._train_epoch(images, progress))
            self._epoch += 1
            self._save(self._state())
        self._check_tensors()
        return Trained(
            tensors={name: t.detach().cpu() for name, t in self._tensors.items()},
            head=self._start.replaced({name: t.detach().cpu() for name, t in self._head.items()}),
            losses=self._losses,
        )

    def _train_epoch(self, images: Images, progress: Callable[[float], None]) -> float:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._recipe.seed}/{self._epoch}".encode()))
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # dropout, drop path
        total = 0.0
        for step, indices in enumerate(self._shuffled(images, generator)):
            self._set_rate(self._epoch * self.steps(images) + step, self.steps(images))
            augment = generator if self._recipe.augment != "none" else None
            loss = self._loss(images.batch(indices, augment), images.labels[indices])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            value = loss.item()
            self._check_finite(value)
            total += value * len(indices)
            progress(value)
        return total / len(images)

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        edits = self._method.edits(self._vit, self._tensors)
        run = Functional(self._vit, edits, training=True, drop_path=self._recipe.drop_path)
        features = self._vit.forward(inputs, run)
        logits = self._start.replaced(self._head).logits(features)
        return F.cross_entropy(logits, labels.to(logits.device))

    def _shuffled(self, images: Images, generator: torch.Generator) -> Iterator[Tensor]:
        yield from torch.randperm(len(images), generator=generator).split(self._recipe.batch_size)

    def _set_rate(self, step: int, steps_per_epoch: int) -> None:
        """Linear warm-up, then a cosine down to a hundredth of the rate."""
        recipe = self._recipe
        total = recipe.epochs * steps_per_epoch
        warmup = max(1, round(recipe.warmup_ratio * total))
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            done = (step - warmup) / max(1, total - warmup)
            factor = 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss} in epoch {self._epoch + 1}")

    def _check_tensors(self) -> None:
        """The last step comes after the last loss, so the loss alone cannot vouch for the tensors."""
        for name, tensor in (self._tensors | self._head).items():
            if not tensor.isfinite().all():
                raise self._diverged(f"{name} is no longer finite after the last step")

    def _diverged(self, problem: str) -> InvalidInput:
        rate = self._recipe.learning_rate
        return InvalidInput(problem, field="lr", remedy=f"train with a lower one than {rate:g}")

    def _state(self) -> dict[str, Any]:
        return {
            "tensors": {name: t.detach() for name, t in self._tensors.items()},
            "head": {name: t.detach() for name, t in self._head.items()},
            "optimizer": self._optimizer.state_dict(),
            "epoch": self._epoch,
            "losses": self._losses,
        }


def _trainable(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.detach().to(device).clone().requires_grad_()
