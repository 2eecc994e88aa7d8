"""The logits of several models over images, every image once.

Rows of all models on one image share a forward, so the image's patch convolution and the blocks before the
models' first edits are computed once.

Shapes: n images, b of a batch, C classes of a model, S image size.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from petl_vit.batch import Batch, Model, Row

_ROWS = 32


def images_at_once(models: int) -> int:
    """How many images make a good batch for this many models."""
    return max(1, _ROWS // max(1, models))


def logits_of_images(batch: Batch, models: Sequence[Model], images: Tensor) -> list[Tensor]:
    """The logits [b, C] of each model, on the host; C may differ between models.

    Args:
        images: [b, 3, S, S], normalised; anywhere, of any floating dtype.
    """
    inputs = images.to(device=batch.vit.device, dtype=batch.vit.dtype)
    rows = [Row(image=i, model=model) for model in models for i in range(len(inputs))]
    logits = batch.logits(inputs, rows)
    return [torch.stack(logits[start : start + len(inputs)]) for start in range(0, len(rows), len(inputs))]


def logits_over(
    batch: Batch,
    models: Sequence[Model],
    batches: Iterable[Tensor],
    advance: Callable[[int], None] = lambda n: None,
) -> list[Tensor]:
    """The logits [n, C] of each model, on the host.

    Args:
        batches: At least one; each as `logits_of_images` takes it.
        advance: Called with the number of images that are done.
    """
    parts = []
    for images in batches:
        parts.append(logits_of_images(batch, models, images))
        advance(len(images))
    return [torch.cat(of_model) for of_model in zip(*parts, strict=True)]
