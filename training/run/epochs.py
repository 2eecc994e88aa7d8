"""The epochs of a run: resumed where they stopped, measured on the way, and told line by line.

Shapes: n images, b of a batch, C classes.
"""

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from petl_vit.heads import Head
from petl_vit.vit import FrozenViT
from training.data.loading import Resized, sent
from training.progress import Reporter, duration
from training.run import memory, prefix
from training.run.checkpoint import Checkpoint
from training.run.features import Features, stages, why_not_once
from training.run.feed import Images
from training.run.planned import Planned
from training.run.recipe import Keep
from training.run.trainer import Trained, Trainer, train

_TIMES = 10
"""A run is measured so often on its way; after every epoch where the best one is kept."""
_FEWEST = {"last": 64, "best": 256}
_SHARE = {"last": 0.5, "best": 1.0}
"""Of the images of an epoch, so that measuring costs little beside training; more where it decides."""
_BATCH = 64
_NOTABLE_WAIT = 0.05
"""Share of a run."""


def run_epochs(
    adapters: Sequence[Planned],
    checkpoints: Sequence[Checkpoint],
    *,
    vit: FrozenViT,
    on: FrozenViT,
    base_head: Head,
    images: Resized,
    heldout: Resized,
    reporter: Reporter,
    micro_batch: int | None = None,
    watch: Callable[[Sequence[Trainer]], None] | None = None,
) -> list[Trained]:
    """Trains adapters, each from the state that its checkpoint has, and saves it there after every epoch.

    Args:
        vit: The backbone in float32, on the host.
        on: The backbone as training runs it.
        micro_batch: Images of one forward and backward; None is the batch, or as many as fit in memory.
        watch: Called after every epoch with those that ended it, once they are measured; it may stop some.
            With it, one whose loss is no longer finite stops alone. Those that stopped have no result.

    Raises:
        InvalidInput: A loss is no longer finite, a checkpoint cannot be written, or the run does not fit in
            memory.
    """
    alone = len(adapters) == 1
    once = [_features_once(adapter, on, len(images), reporter, alone=alone) for adapter in adapters]
    trainers = []
    for adapter, checkpoint in zip(adapters, checkpoints, strict=True):
        checkpoint.prepare()
        trainer = Trainer(
            vit,
            adapter.method,
            base_head,
            adapter.recipe,
            on=on,
            name="" if alone else adapter.name,
            save=checkpoint.save,
            given_features=all(once),
            fails_alone=watch is not None,
        )
        state = checkpoint.load()
        if state is not None and (done := trainer.resume(state)):
            which = "" if alone else f"{adapter.name}: "
            reporter.note(f"{which}resuming after epoch {done} of {adapter.recipe.epochs}")
        trainers.append(trainer)
    recipe = adapters[0].recipe
    trained_on, measured_on = _once((images, heldout), trainers, reporter, head_alone=all(once))
    if not all(once):
        micro_batch = memory.fitting(trainers, trained_on, micro_batch, reporter.note)
    epochs = recipe.epochs - min(trainer.epoch for trainer in trainers)
    names = [adapter.recipe.method if alone else adapter.name for adapter in adapters]
    told = Epochs(trainers, measured_on, len(images), reporter, of=len(heldout))

    def after_epoch(learning: Sequence[Trainer]) -> None:
        told([trainer for trainer in learning if not trainer.stopped])
        if watch is not None:
            watch(learning)

    waits, started = list[float](), time.monotonic()
    with reporter.stage(f"training {', '.join(names)}", epochs * trainers[0].steps(images)) as advance:
        trained = train(
            trainers,
            trained_on,
            micro_batch=micro_batch,
            waited=waits.append,
            progress=lambda loss: advance(1),
            after_epoch=after_epoch,
        )
    share = sum(waits) / max(1e-9, time.monotonic() - started)
    if share >= _NOTABLE_WAIT:
        reporter.note(f"steps waited for images to be decoded for {share:.0%} of the time")
    return trained


def _features_once(adapter: Planned, vit: FrozenViT, images: int, reporter: Reporter, *, alone: bool) -> bool:
    """Whether the features of an adapter's images are computed once; says so where edits would allow it."""
    why = why_not_once(adapter.method, adapter.recipe, vit, images, alone=alone)
    if why:
        reporter.note(f"{adapter.name}: frozen features are computed again in every epoch, as {why}")
    return why == ""


def _once(
    several: tuple[Resized, Resized], trainers: Sequence[Trainer], reporter: Reporter, *, head_alone: bool
) -> tuple[Images, Images]:
    """Training and held-out images, or what is computed of them once: features, or what comes to a block."""
    images, heldout = several
    recipe, vit = trainers[0].recipe, trainers[0].vit
    places = measured(len(heldout), len(images), recipe.keep)
    count = stages(recipe, len(images)) + len(places)
    block, what = None, "computing frozen features"
    if not head_alone:
        block = prefix.first_block(trainers)
        if block is None or not prefix.is_kept(trainers, block, len(images) + len(places), recipe):
            return several
        what = prefix.told(block)
    plain = recipe.model_copy(update={"augment": "none"})
    with reporter.stage(what, count) as advance:
        kept = Features(images, recipe, vit, advance, block=block)
        kept_heldout = Features(heldout, plain, vit, advance, places=places, block=block)
    for trainer in trainers:
        trainer.start = block
    return kept, kept_heldout


class Epochs:
    """Called after every epoch: measures the held-out accuracy every so often, and says how far training is.

    Args:
        trainers: All that are in training.
        heldout: What they are measured on: features where the trainer is given features.
        training: How many images an epoch has: see `measured`.
        of: How many images are held out, where they are more than those.
    """

    def __init__(
        self,
        trainers: Sequence[Trainer],
        heldout: Images,
        training: int,
        reporter: Reporter,
        *,
        of: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._several, self._heldout, self._reporter = len(trainers) > 1, heldout, reporter
        self._epochs = trainers[0].recipe.epochs
        best = any(trainer.recipe.keep == "best" for trainer in trainers)
        self._every = 1 if best else math.ceil(self._epochs / _TIMES)
        self._indices = measured(len(heldout), training, "best" if best else "last")
        self._of = of or len(heldout)
        self._remaining = sum(self._epochs - trainer.epoch for trainer in trainers)
        self._done, self._clock, self._started = 0, clock, clock()

    def __call__(self, trainers: Sequence[Trainer]) -> None:
        """Takes note of an epoch that these have ended."""
        if not trainers:
            return
        epoch = trainers[0].epoch
        if epoch % self._every == 0 or epoch == self._epochs:
            for trainer in trainers:
                trainer.note_accuracy(self._accuracy(trainer))
        self._done += len(trainers)
        elapsed = self._clock() - self._started
        left = elapsed / self._done * (self._remaining - self._done)
        told = "; ".join(self._told(trainer) for trainer in trainers)
        self._reporter.status(f"epoch {epoch}/{self._epochs}: {told}, {duration(left)} left")

    def _told(self, trainer: Trainer) -> str:
        name = f"{trainer.name} " if self._several else ""
        accuracy = trainer.accuracies.get(trainer.epoch)
        told = f"{name}loss {trainer.losses[-1]:.4f}, learning rate {trainer.rate:.2g}"
        if accuracy is None:
            return told
        part = f" on {len(self._indices)}" if len(self._indices) < self._of else ""
        return f"{told}, held-out accuracy {accuracy:.3f}{part}"

    def _accuracy(self, trainer: Trainer) -> float:
        right = 0
        for indices in self._indices.split(_BATCH):
            logits = trainer.logits(self._heldout.batch(indices))
            labels = sent(self._heldout.labels[indices], logits.device)
            right += int((logits.argmax(dim=-1) == labels).sum())
        return right / len(self._indices)


def measured(heldout: int, training: int, keep: Keep) -> Tensor:
    """The places of the held-out images that are measured on the way, evenly: classes keep their proportions.

    Args:
        training: How many images an epoch has.
        keep: Which epoch is registered; the best one takes more images to tell.
    """
    most = max(_FEWEST[keep], round(_SHARE[keep] * training))
    return torch.arange(heldout) if heldout <= most else torch.linspace(0, heldout - 1, most).round().long()
