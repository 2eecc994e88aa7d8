"""Group by adapter: the rows of one adapter at a time, as servers do that switch the active adapter.

Our own engine without mixing, which is also what multiplexed replicas (Ray Serve) come to.
Shapes: B rows, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from petl_vit.batch import Batch, Model, Row


class Grouped:
    """One forward for each adapter."""

    def __init__(self, batch: Batch, models: Sequence[Model]) -> None:
        self._batch, self._models = batch, models

    @torch.inference_mode()
    def logits(self, images: Tensor, which: Sequence[int]) -> Tensor:
        """[B, 3, S, S] -> [B, C], row i under model `which[i]`."""
        out: dict[int, Tensor] = {}
        for number in sorted(set(which)):
            members = [i for i, asked in enumerate(which) if asked == number]
            rows = [Row(image=i, model=self._models[number]) for i in range(len(members))]
            out.update(zip(members, self._batch.logits(images[members], rows), strict=True))
        return torch.stack([out[i] for i in range(len(which))])
