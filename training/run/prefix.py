"""The frozen blocks below everything that is trained: computed once for each image, not in every epoch.

Nothing that is trained, and no random number, acts on the patches before the edits of their embedding, nor
on the blocks below the first edited one where drop path is 0. `training.run.features` keeps what comes out.
"""

from collections.abc import Sequence

from petl_vit import memory
from petl_vit.edit_set import EditSet
from training.run.recipe import Recipe
from training.run.trainer import Trainer

KEPT_BYTES = 2 * 2**30
"""More is not kept; neither is more than a quarter of what this process may still take."""
_STILL = ("none", "flip")
"""Augmentations of which an image has few variants."""


def first_block(trainers: Sequence[Trainer]) -> int | None:
    """The block that comes first for all trainers: 0 is the patches; None where even these change."""
    blocks = [_first_block(trainer) for trainer in trainers]
    found = [block for block in blocks if block is not None]
    return min(found) if len(found) == len(blocks) else None


def _first_block(trainer: Trainer) -> int | None:
    edits = EditSet(trainer.edits())
    if any(edit.name.startswith("patch_embed.") for edit in edits.dense):
        return None
    last = trainer.vit.arch.depth - 1
    dropped = 1 if trainer.recipe.drop_path else last  # block 0 has no drop path
    return int(min(edits.first_block, dropped, last))


def is_kept(trainers: Sequence[Trainer], block: int, images: int, recipe: Recipe) -> bool:
    """Whether what comes to a block is kept, of so many images."""
    if recipe.augment not in _STILL:
        return False
    usable = memory.usable_bytes()
    most = KEPT_BYTES if usable is None else min(KEPT_BYTES, usable // 4)
    return kept_bytes(trainers, block, images, recipe) <= most


def kept_bytes(trainers: Sequence[Trainer], block: int, images: int, recipe: Recipe) -> int:
    vit = trainers[0].vit
    tokens = vit.arch.grid**2 + (vit.arch.prefix_tokens if block else 0)
    variants = 2 if recipe.augment == "flip" else 1
    return variants * images * tokens * vit.arch.width * vit.dtype.itemsize


def told(block: int) -> str:
    """What is computed once, for people."""
    if block == 0:
        return "computing patches"
    return f"computing {block} frozen block{'s' * (block > 1)}"
