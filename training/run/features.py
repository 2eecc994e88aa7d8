"""Features that nothing changes while a head is trained: computed once, instead of in every epoch.

Only a method without edits has them, and only without drop path. An image that is mirrored at random has two.

Shapes: n images, b of a batch, D width.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from petl_vit.executors.functional import Functional
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT
from training.run.feed import Images
from training.run.recipe import Recipe

KEPT_BYTES = 2 * 2**30
"""More features than this are not kept."""
_BATCH = 64


class Mirrorable(Images, Protocol):
    """Labelled images that may be asked for mirrored."""

    def batch(
        self, indices: Tensor, augment: torch.Generator | None = None, *, mirrored: bool = False
    ) -> Tensor:
        """As `Images` has it, of mirrored images where asked to."""


def why_not_once(method: Method, recipe: Recipe, vit: FrozenViT, images: int, *, alone: bool) -> str | None:
    """Why features are computed in every epoch; empty where once is enough, None where edits change them.

    Args:
        images: How many there are.
        alone: Whether the adapter trains alone.
    """
    if method.shapes(vit.arch):
        return None
    if recipe.drop_path:
        return "drop path changes them; --drop-path 0 computes them once"
    if recipe.augment not in ("none", "flip"):
        return f"{recipe.augment} changes the images; --augment flip or none computes them once"
    if not alone:
        return "it shares forwards with others"
    if _variants(recipe) * images * vit.arch.features * 4 > KEPT_BYTES:
        return "they are too large to keep"
    return ""


class Features:
    """Labelled features in the place of labelled images: see `training.run.trainer.Images`.

    Args:
        images: What they are features of.
        places: Which of them; None is all.
        vit: The backbone as training runs it.
        block: Keeps what comes to this block in the place of features; see `FrozenViT.stream`.
        advance: Called with the number of images that are done, mirrored ones included.
    """

    def __init__(
        self,
        images: Mirrorable,
        recipe: Recipe,
        vit: FrozenViT,
        advance: Callable[[int], None] = lambda n: None,
        *,
        places: Tensor | None = None,
        block: int | None = None,
    ) -> None:
        places = torch.arange(len(images)) if places is None else places
        self.labels = images.labels[places]
        self._plain, *mirrored = (
            _computed(images, places, vit, advance, block, mirrored=bool(variant))
            for variant in range(_variants(recipe))
        )
        self._mirrored = mirrored[0] if mirrored else None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
        """[b, D] or [b, N, D], on the backbone's device; of mirrored images where the generator says so."""
        places = indices.to(self._plain.device)
        if augment is None or self._mirrored is None:
            return self._plain[places]
        mirrored = (torch.rand(len(indices), generator=augment) < 0.5).to(self._plain.device)
        shape = (-1, *[1] * (self._plain.dim() - 1))
        return torch.where(mirrored.view(shape), self._mirrored[places], self._plain[places])


def stages(recipe: Recipe, images: int) -> int:
    """How many images `Features` goes through."""
    return _variants(recipe) * images


def _variants(recipe: Recipe) -> int:
    return 2 if recipe.augment == "flip" else 1


@torch.no_grad()
def _computed(
    images: Mirrorable,
    places: Tensor,
    vit: FrozenViT,
    advance: Callable[[int], None],
    block: int | None,
    *,
    mirrored: bool,
) -> Tensor:
    """[n, D], or [n, N, D] where a block is named."""
    run, parts = Functional(vit, []), []
    for indices in places.split(_BATCH):
        inputs = images.batch(indices, mirrored=mirrored)
        parts.append(vit.forward(inputs, run) if block is None else vit.stream(inputs, run, block))
        advance(len(indices))
    return torch.cat(parts)
