"""The training loop: adapters and their heads over the frozen forward, one alone or several in one forward.

Knows tensors, not files or names. Randomness comes from the recipe's seed and the epoch alone, so a
run that resumes after an epoch gives the same result as one that was never stopped, and adapters that
learn together end as each would alone.

Shapes: n images, b of a step, S image size, D width, C classes.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.edits import Edit
from petl_vit.errors import InvalidInput
from petl_vit.executor import Executor
from petl_vit.executors.functional import Functional
from petl_vit.executors.joint import Joint, Learner
from petl_vit.heads import Head
from petl_vit.methods.method import Method
from petl_vit.noise import Noise
from petl_vit.vit import PATCH_CONVOLUTION, FrozenViT
from training.run.feed import Batch, Feed, Images
from training.run.precision import frozen
from training.run.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run produced, on the CPU, in the dtype of the backbone that it was given.

    Attributes:
        epoch: The one that it is from.
        losses: Of every epoch.
        accuracies: On held-out images, by the epoch after which they were measured.
    """

    tensors: dict[str, Tensor]
    head: Head
    epoch: int
    losses: list[float]
    accuracies: dict[int, float]


@dataclass(kw_only=True)
class _Epoch:
    """How far an adapter is in an epoch: steps done, images seen and the sum of their losses."""

    noise: Noise
    steps: int
    done: int = 0
    seen: int = 0
    total: float = 0.0


class Trainer:
    """One adapter in training: its tensors, its head, its optimiser, and how far it is.

    Args:
        vit: The backbone. What is trained has its dtype: float32, or float64 to compare runs.
        method: The method with its config.
        base_head: Where the head starts with `head_init` probe.
        recipe: The hyper-parameters.
        on: The backbone as `frozen` made it, which adapters that learn together share; None makes it.
        name: What errors call the adapter where it is one of several.
        save: Called with the state after every epoch.
        given_features: Whether inputs are the features of images, which nothing that is trained changes.
        fails_alone: Whether a loss that is not finite stops this adapter, and not all that learn with it.
    """

    def __init__(
        self,
        vit: FrozenViT,
        method: Method,
        base_head: Head,
        recipe: Recipe,
        *,
        on: FrozenViT | None = None,
        name: str = "",
        save: Callable[[dict[str, Any]], None] = lambda state: None,
        given_features: bool = False,
        fails_alone: bool = False,
    ) -> None:
        self.recipe, self.vit = recipe, frozen(vit, recipe.precision) if on is None else on
        self.epoch = 0
        self._method, self.name, self._save = method, name, save
        self._given_features, self._fails_alone = given_features, fails_alone
        self.start: int | None = None
        """The block that inputs come to, as `FrozenViT.stream` has it; None where they are images."""
        self.stopped = ""
        """Why it learns no further before its last epoch; empty while it does."""
        generator = torch.Generator().manual_seed(recipe.seed)
        init = method.init_published if recipe.init == "published" else method.init
        tensors = init(vit.to(device=torch.device("cpu")), generator)
        random = base_head.redrawn(generator)
        self._start = base_head if recipe.head_init == "probe" else random
        self._tensors = {name: _trainable(t, self.vit) for name, t in tensors.items()}
        self._head = {name: _trainable(t, self.vit) for name, t in self._start.tensors().items()}
        self.optimizer = torch.optim.AdamW(
            [{"params": [*self._tensors.values()]}, {"params": [*self._head.values()]}],
            weight_decay=recipe.weight_decay,
            fused=self.vit.device.type == "cuda" or None,  # one kernel for many small tensors
        )
        self.losses: list[float] = []
        self.accuracies: dict[int, float] = {}
        self._best: dict[str, Any] | None = None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is trained: the adapter's tensors and the head's."""
        return self._tensors | self._head

    def resume(self, state: dict[str, Any]) -> int:
        """Goes on from a saved state; returns the number of epochs that are done."""
        with torch.no_grad():
            for current, saved in ((self._tensors, state["tensors"]), (self._head, state["head"])):
                for name, tensor in current.items():
                    tensor.copy_(saved[name])
        groups = self.optimizer.state_dict()["param_groups"]  # an older state has one for all tensors
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        self.epoch, self.losses = state["epoch"], list(state["losses"])
        self.accuracies, self._best = dict(state.get("accuracies", {})), state.get("best")
        return self.epoch

    def steps(self, images: Images) -> int:
        """Optimiser steps of one epoch."""
        return math.ceil(len(images) / self.recipe.batch_size)

    def run(
        self,
        images: Images,
        *,
        micro_batch: int | None = None,
        progress: Callable[[float], None] = lambda loss: None,
    ) -> Trained:
        """Train the epochs that remain, as `train` does.

        Raises:
            InvalidInput: The loss is no longer finite.
        """
        return train([self], images, micro_batch=micro_batch, progress=progress)[0]

    # One epoch, as `train` goes through it

    def begin_epoch(self, noise: int, steps: int) -> None:
        """Starts an epoch of so many steps; `noise` seeds dropout and drop path."""
        self._now = _Epoch(noise=Noise(self.vit.device, noise), steps=steps)

    @property
    def drawn_bytes(self) -> int:
        """Of the masks of dropout and drop path in this epoch."""
        return self._now.noise.drawn_bytes

    def part(self, first: int, stop: int, batch: int) -> None:
        """Says which rows of a batch the next forward has."""
        self._now.noise.part(first, stop, batch)

    def features(self, inputs: Tensor) -> Tensor:
        """[b, D] of images, alone."""
        if self._given_features:
            return inputs
        return self._through(inputs, Joint(self.vit, [self.learner(len(inputs))]))

    def _through(self, inputs: Tensor, run: Executor) -> Tensor:
        """[b, D] of what the trainer is given."""
        if self.start is None:
            return self.vit.forward(inputs, run)
        return self.vit.features(inputs, run, start=self.start)

    def edits(self) -> list[Edit]:
        """The edits as they are now."""
        return self._method.edits(self.vit, self._tensors)

    def learner(self, rows: int) -> Learner:
        """Its part in a forward, alone or with others."""
        return Learner(rows=rows, edits=self.edits(), drop_path=self.recipe.drop_path, noise=self._now.noise)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self._start.replaced(self._head).logits(features), labels)

    def advance(self) -> None:
        """One step along the gradients, which are gone afterwards."""
        self._set_rate(self.epoch * self._now.steps + self._now.done)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._now.done += 1

    def count(self, loss: float, images: int) -> None:
        """Takes note of a step's loss, over so many images.

        Raises:
            InvalidInput: It is not finite, unless the adapter `fails_alone`.
        """
        if not math.isfinite(loss):
            error = self._diverged(f"the loss{self._of} became {loss} in epoch {self.epoch + 1}")
            if not self._fails_alone:
                raise error
            self.stopped = self.stopped or error.problem
        self._now.total += loss * images
        self._now.seen += images

    def end_epoch(self) -> None:
        self.losses.append(self._now.total / self._now.seen)
        self.epoch += 1

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """[b, C] of images as the adapter is now, without dropout and drop path."""
        features = inputs
        if not self._given_features:
            features = self._through(inputs, Functional(self.vit, self.edits()))
        return self._start.replaced(self._head).logits(features)

    def note_accuracy(self, accuracy: float) -> None:
        """Takes note of the held-out accuracy after an epoch; keeps the best one's tensors where asked to."""
        best = max(self.accuracies.values(), default=-1.0)
        self.accuracies[self.epoch] = accuracy
        if self.recipe.keep == "best" and accuracy > best:
            self._best = {"epoch": self.epoch, "tensors": _copied(self._tensors), "head": _copied(self._head)}

    def save(self) -> None:
        """Saves the state after an epoch."""
        self._save(self._state())

    def trained(self) -> Trained:
        """What came of it: the last epoch or the best.

        Raises:
            InvalidInput: A tensor is not finite: the last step comes after the last loss.
        """
        tensors, head = _on_host(self._tensors), _on_host(self._head)
        for name, tensor in (tensors | head).items():
            if not tensor.isfinite().all():
                raise self._diverged(f"{name}{self._of} is no longer finite after the last step")
        kept = self._best or {"epoch": self.epoch, "tensors": tensors, "head": head}
        return Trained(
            tensors=_on_host(kept["tensors"]),
            head=self._start.replaced(_on_host(kept["head"])),
            epoch=kept["epoch"],
            losses=self.losses,
            accuracies=self.accuracies,
        )

    def _set_rate(self, step: int) -> None:
        """Linear warm-up, then a cosine down to a hundredth of the rates."""
        recipe = self.recipe
        total = recipe.epochs * self._now.steps
        warmup = max(1, round(recipe.warmup_ratio * total))
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            done = (step - warmup) / max(1, total - warmup)
            factor = 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
        for group, rate in zip(self.optimizer.param_groups, recipe.highest_rates, strict=True):
            group["lr"] = rate * factor

    @property
    def rate(self) -> float:
        """The adapter's learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def _of(self) -> str:
        return f" of {self.name}" if self.name else ""

    def _diverged(self, problem: str) -> InvalidInput:
        rate, _ = self.recipe.highest_rates
        return InvalidInput(problem, field="learning_rate", remedy=f"train with a lower one than {rate:g}")

    def _state(self) -> dict[str, Any]:
        return {
            "tensors": {name: t.detach() for name, t in self._tensors.items()},
            "head": {name: t.detach() for name, t in self._head.items()},
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "losses": self.losses,
            "accuracies": self.accuracies,
            "best": self._best,
        }


def train(
    trainers: Sequence[Trainer],
    images: Images,
    *,
    micro_batch: int | None = None,
    waited: Callable[[float], None] = lambda seconds: None,
    progress: Callable[[float], None] = lambda loss: None,
    after_epoch: Callable[[Sequence[Trainer]], None] = lambda trainers: None,
) -> list[Trained]:
    """Train the epochs that remain, of several adapters in one forward; those that are not `stopped`.

    Args:
        trainers: With one backbone, batch size, augmentation and precision.
        micro_batch: Images of one forward and backward: a step adds up the gradients of its parts, with
            the same result to rounding, random numbers included. None is the batch.
        waited: Called with the seconds for which a step waited for images to be decoded.
        progress: Called after each step with the mean of the losses.
        after_epoch: Called with those that ended one, before their states are saved; it may stop some.

    Raises:
        InvalidInput: A loss is no longer finite.
    """
    while learning := _furthest_behind(trainers):
        _train_epoch(learning, images, micro_batch, waited, progress)
        after_epoch(learning)
        for trainer in learning:
            if not trainer.stopped:
                trainer.save()
    return [trainer.trained() for trainer in trainers if not trainer.stopped]


def _furthest_behind(trainers: Sequence[Trainer]) -> list[Trainer]:
    """Those that go next: all, or after a kill between two saves those that were not saved."""
    unfinished = [t for t in trainers if t.epoch < t.recipe.epochs and not t.stopped]
    return [t for t in unfinished if t.epoch == min(other.epoch for other in unfinished)]


def _train_epoch(
    trainers: Sequence[Trainer],
    images: Images,
    micro_batch: int | None,
    waited: Callable[[float], None],
    progress: Callable[[float], None],
) -> None:
    """Adapters of one seed see the same images in each step, and share them as far as the first edit."""
    feeds = {t.recipe.seed: Feed(images, t.recipe, t.epoch, t.vit.device, waited) for t in trainers}
    places = [list(feeds).index(trainer.recipe.seed) for trainer in trainers]
    for trainer in trainers:
        trainer.begin_epoch(feeds[trainer.recipe.seed].noise, trainer.steps(images))
    steps = zip(*feeds.values(), strict=True)
    batches, taken = next(steps, None), deque[_Losses]()
    while batches is not None:
        losses = gradients(trainers, batches, places, micro_batch)
        for trainer in trainers:
            trainer.advance()
        taken.append(_Losses(losses, len(batches[0].labels)))
        batches = next(steps, None)  # read while a GPU still computes
        while len(taken) > (_steps_behind(losses.device) if batches is not None else 0):
            values, count = taken.popleft().read()
            for trainer, value in zip(trainers, values, strict=True):
                trainer.count(value, count)
            progress(sum(values) / len(values))
    for trainer in trainers:
        trainer.end_epoch()


def _steps_behind(device: torch.device) -> int:
    """Steps whose losses are still on their way: a GPU gets its next step while it computes one."""
    return 1 if device.type == "cuda" else 0


class _Losses:
    """A step's losses [trainers] on their way to the host, and how many images they are of."""

    def __init__(self, losses: Tensor, images: int) -> None:
        self._host, self._images = losses, images
        self._arrived: torch.cuda.Event | None = None
        if losses.is_cuda:
            self._host = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
            self._host.copy_(losses, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[list[float], int]:
        """Waits for the step, not for those that were begun after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist(), self._images


def gradients(
    trainers: Sequence[Trainer],
    batches: Sequence[Batch],
    places: Sequence[int],
    micro_batch: int | None = None,
) -> Tensor:
    """Adds the gradients of a step to the trainers' tensors, and returns their losses, [trainers].

    Args:
        micro_batch: As in `train`.
    """
    count, losses = len(batches[0].labels), []
    size = micro_batch or count
    for first in range(0, count, size):
        stop = min(first + size, count)
        for trainer in trainers:
            trainer.part(first, stop, count)
        share = (stop - first) / count
        part = [share * loss for loss in losses_of(trainers, [b.part(first, stop) for b in batches], places)]
        torch.autograd.backward(part)
        losses.append(torch.stack([loss.detach() for loss in part]))
    return torch.stack(losses).sum(dim=0)


def losses_of(trainers: Sequence[Trainer], batches: Sequence[Batch], places: Sequence[int]) -> list[Tensor]:
    """Each trainer's loss on the batch at its place, in one forward."""
    vit = trainers[0].vit
    inputs = torch.cat([batch.inputs for batch in batches]) if len(batches) > 1 else batches[0].inputs
    if len(trainers) == 1:
        features = trainers[0].features(inputs)
    else:
        rows = torch.arange(len(inputs), device=inputs.device).split([len(b.labels) for b in batches])
        run = Joint(vit, [t.learner(len(rows[p])) for t, p in zip(trainers, places, strict=True)])
        start = trainers[0].start
        x = run.over(PATCH_CONVOLUTION, vit.patches, inputs) if start is None else inputs
        fork = {start or 0: torch.cat([rows[place] for place in places])}
        features = vit.features(x, run, fork, start=start or 0)
    parts = features.split([len(batches[place].labels) for place in places])
    return [
        trainer.loss(part, batches[place].labels)
        for trainer, part, place in zip(trainers, parts, places, strict=True)
    ]


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _trainable(tensor: Tensor, vit: FrozenViT) -> Tensor:
    return tensor.detach().to(vit.device, vit.dtype).clone().requires_grad_()
