"""The random masks of training: dropout and drop path.

Every adapter has its own stream of random numbers, which its seed alone decides. A batch that runs part by
part has the masks of the whole batch: they are drawn for all its rows in the first part and kept, as
booleans, for the others. On a CPU the random numbers are PyTorch's 32-bit Mersenne Twister itself: the same
on every CPU, in half the time of `bernoulli_`.

Shapes: b rows of a part, B of the batch.
"""

import math

import torch
from torch import Tensor


class Noise:
    """A private stream of random masks.

    Args:
        device: Where masks are drawn and needed.
        seed: Decides all of them.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._rows: slice | None = None
        self._batch, self._drawn, self._next = 0, list[Tensor](), 0
        self.drawn_bytes = 0
        """Of all masks so far."""

    def part(self, first: int, stop: int, batch: int) -> None:
        """Says which rows of a batch the next forward has; parts follow each other from row 0.

        Without it a forward has the whole batch.
        """
        if first == 0:
            self._drawn = []
        self._rows = None if stop - first == batch else slice(first, stop)
        self._batch, self._next = batch, 0

    def kept(self, shape: tuple[int, ...], rate: float) -> Tensor:
        """bool [b, ...]: a mask for each row; False, at this rate, is what is dropped."""
        if self._rows is None:
            return self._draw(shape, rate)
        return self._of_batch((self._batch, *shape[1:]), rate)[self._rows]

    def kept_for_all(self, shape: tuple[int, ...], rate: float) -> Tensor:
        """bool: one mask for all rows of the batch."""
        return self._draw(shape, rate) if self._rows is None else self._of_batch(shape, rate)

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        """[b, ...] -> same: some elements of each row dropped, the rest scaled up."""
        return masked(x, self.kept(tuple(x.shape), rate), rate) if rate else x

    def path(self, rows: int, rate: float, like: Tensor) -> Tensor:
        """[b, 1, 1]: the factors of stochastic depth (arXiv 1603.09382): 0, or 1 scaled up."""
        return self.kept((rows, 1, 1), rate).to(like.dtype).mul_(1 / (1 - rate))

    def _of_batch(self, shape: tuple[int, ...], rate: float) -> Tensor:
        """A mask of the whole batch: drawn by its first part, and again at hand in the others."""
        if self._next == len(self._drawn):
            self._drawn.append(self._draw(shape, rate))
        self._next += 1
        return self._drawn[self._next - 1]

    def _draw(self, shape: tuple[int, ...], rate: float) -> Tensor:
        if self._generator.device.type == "cpu":
            mask = self._bits(math.prod(shape)).view(shape) >= round((rate - 0.5) * 2**32)
        else:
            mask = torch.empty(shape, dtype=torch.bool, device=self._generator.device)
            mask.bernoulli_(1 - rate, generator=self._generator)
        self.drawn_bytes += mask.nbytes
        return mask

    def _bits(self, count: int) -> Tensor:
        """int32 [count], all values alike."""
        pairs = torch.empty(-(-count // 2), dtype=torch.int64)
        return pairs.random_(-(2**63), None, generator=self._generator).view(torch.int32)[:count]


def masked(x: Tensor, kept: Tensor, rate: float) -> Tensor:
    """x where it is kept, scaled up by the share that is dropped, and 0 elsewhere."""
    return torch.where(kept, x * (1 / (1 - rate)), 0.0)


def dropped(x: Tensor, rate: float, noise: Noise | None) -> Tensor:
    """Dropout of [b, ...], where there is noise."""
    return x if noise is None else noise.dropout(x, rate)


def dropped_for_all(x: Tensor, rate: float, noise: Noise | None) -> Tensor:
    """Dropout of what all rows of the batch have in common."""
    if noise is None or not rate:
        return x
    return masked(x, noise.kept_for_all(tuple(x.shape), rate), rate)
