"""How much memory a run takes, told before it starts, and how many images fit into one forward and backward.

What a step keeps for its backward pass is measured on one image and on two; all else follows from shapes.

Shapes: b images of a forward, N tokens, D width, M hidden width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from petl_vit import heap, memory
from petl_vit.errors import InvalidInput
from training.run.feed import Batch, Images
from training.run.trainer import Trainer, losses_of

SHARE = 0.9
"""Of what this process may still take, a run is planned with so much."""
_TOUCHED = 24 * 2**20
"""Bytes of PyTorch that only training touches, and of its products' buffers, on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a run takes besides what the process has once it is prepared.

    Attributes:
        trained: Gradients, the optimiser's moments, and what does not depend on the adapter.
        once: What a forward and backward takes whatever its number of images; image: and for each of them.
    """

    trained: int
    once: int
    image: int

    def of(self, images: int) -> int:
        """With so many images in one forward and backward."""
        return self.trained + self.once + images * self.image

    def most(self, usable: int) -> int:
        """How many images fit; 0 where none does."""
        return max(0, usable - self.trained - self.once) // max(1, self.image)


def need(trainers: Sequence[Trainer], images: Images) -> Need:
    """What trainers take in one forward; they have not begun an epoch."""
    one, two = (_kept(trainers, images, count) for count in (1, 2))
    arch = trainers[0].vit.arch
    tokens = arch.grid**2 + arch.prefix_tokens
    itemsize = trainers[0].vit.dtype.itemsize
    at_work = tokens * (2 * arch.fc1_width + 4 * arch.width) * itemsize  # of the block that is computed
    pixels = 2 * 3 * arch.image_size**2 * itemsize
    trained = sum(t.nbytes for trainer in trainers for t in trainer.parameters.values())
    largest = max(t.nbytes for trainer in trainers for t in trainer.parameters.values())
    return Need(
        trained=3 * trained + 2 * largest + (_TOUCHED if trainers[0].vit.device.type == "cpu" else 0),
        once=max(0, 2 * one - two),
        image=two - one + len(trainers) * at_work + pixels,
    )


def at_once(trainers: Sequence[Trainer]) -> int:
    """As many images as go into one forward and backward before time suffers.

    The C library maps blocks beyond `heap.LARGEST_BLOCK` anew each time, and their page faults cost more than
    larger products save; the largest block of a forward is the hidden layer of all rows.
    """
    vit, batch = trainers[0].vit, trainers[0].recipe.batch_size
    tokens = vit.arch.grid**2 + vit.arch.prefix_tokens
    row = tokens * max(vit.arch.fc1_width, 3 * vit.arch.width) * vit.dtype.itemsize
    if vit.device.type != "cpu":
        return batch
    return min(batch, max(1, heap.LARGEST_BLOCK // (len(trainers) * row)))


def fitting(
    trainers: Sequence[Trainer],
    images: Images,
    micro_batch: int | None,
    note: Callable[[str], None],
    *,
    usable: int | None = None,
) -> int | None:
    """How many images go into one forward and backward, and how much memory that takes, which a note tells.

    Args:
        micro_batch: What the user asked for; None is the batch, or as many as `at_once` says and fit.
        usable: Bytes that this process may still take; None asks the system.

    Raises:
        InvalidInput: Not even one image fits, or not as many as the user asked for.
    """
    asked = min(micro_batch or at_once(trainers), trainers[0].recipe.batch_size, len(images))
    device = trainers[0].vit.device
    usable = _usable(device) if usable is None else usable
    found = need(trainers, images)
    fit = asked if usable is None else min(asked, found.most(int(SHARE * usable)))
    if fit < asked and (micro_batch is not None or fit == 0):
        raise _too_large(found, asked, fit, usable or 0, device)
    note(_told(found, fit, device))
    if fit < asked:
        note(
            f"steps run in micro-batches of {fit} images, as {asked} would take {size(found.of(asked))} and "
            f"{size(usable or 0)} are free; the result is the same to rounding"
        )
    return fit if fit < trainers[0].recipe.batch_size else None


def _told(found: Need, images: int, device: torch.device) -> str:
    has = memory.resident_bytes() if device.type == "cpu" else torch.cuda.memory_allocated(device)
    text = f"training takes about {size(found.of(images))} of memory"
    return text if has is None else f"{text} besides the {size(has)} in use"


def _too_large(found: Need, asked: int, fit: int, usable: int, device: torch.device) -> InvalidInput:
    where = "here" if device.type == "cpu" else "on the GPU"
    remedy = f"use --micro-batch {fit}" if fit else "free some, or take a smaller backbone or --image-size"
    return InvalidInput(
        f"{asked} image{'s' * (asked > 1)} at once would take {size(found.of(asked))} of memory; "
        f"{size(usable)} are free {where}",
        field="micro_batch",
        remedy=remedy,
    )


def _usable(device: torch.device) -> int | None:
    return memory.usable_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


def _kept(trainers: Sequence[Trainer], images: Images, count: int) -> int:
    """Bytes that a step of so many images keeps for its backward pass."""
    places = torch.arange(count) % len(images)
    batch = Batch(inputs=images.batch(places), labels=images.labels[places].to(trainers[0].vit.device))
    theirs = [*trainers[0].vit.params.values(), *(t for own in trainers for t in own.parameters.values())]
    known = {t.untyped_storage().data_ptr() for t in theirs}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor  # so that its memory is not used again before all are counted

    for trainer in trainers:
        trainer.begin_epoch(0, 1)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = losses_of(trainers, [batch], [0] * len(trainers))
    del losses
    masks = sum(trainer.drawn_bytes for trainer in trainers)
    return sum(nbytes for start, nbytes in storages.items() if start not in known) + masks


def size(nbytes: int) -> str:
    """Bytes as people say them."""
    mib = nbytes / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
