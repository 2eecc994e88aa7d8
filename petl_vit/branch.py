"""Branches: bottlenecks beside or behind a sublayer, their convolution, and what they read.

Shapes: B rows, n images of each row, N tokens, D width, R bottleneck.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from petl_vit.noise import Noise, dropped
from petl_vit.per_row import Alpha, add_product_, at_alpha, product


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv:
    """A 3x3 convolution with zero padding over the patch tokens' map (Convpass).

    Class, register and prompt tokens go through it as images of one pixel: the centre tap alone acts.

    Attributes:
        weight: [R, R, 3, 3]; bias: [R].
        grid: Patches along a side; all tokens before the last grid^2 are single pixels.
    """

    weight: Tensor
    bias: Tensor
    grid: int

    def __call__(self, h: Tensor, tokens: int) -> Tensor:
        """[B, n N, R] -> same, of n images of N tokens; fewer tokens than patches are all single pixels."""
        images = F.pad(h.reshape(-1, tokens, h.shape[-1]), (0, 0, 0, 1))
        index = torch.from_numpy(_neighbours(tokens, self.grid)).to(h.device)
        windows = images.index_select(1, index)
        # A product, as a convolution of so few channels spends its time on changing layouts.
        taps = self.weight.flatten(-2).transpose(-2, -1).flatten(-2).transpose(-2, -1)  # [9 R, R]
        return product(windows.view(h.shape[0], -1, taps.shape[-2]), taps, self.bias)


@lru_cache(maxsize=64)
def _neighbours(tokens: int, grid: int) -> NDArray[np.int64]:
    """[9 N]: the tokens in a 3x3 window over each token, row by row; N where the window is empty."""
    patches = grid**2 if tokens >= grid**2 else 0
    single = tokens - patches
    index = np.full((tokens, 9), tokens)
    index[:single, 4] = np.arange(single)
    if patches:
        around = np.full((grid + 2, grid + 2), tokens)
        around[1:-1, 1:-1] = np.arange(single, tokens).reshape(grid, grid)
        index[single:] = np.lib.stride_tricks.sliding_window_view(around, (3, 3)).reshape(-1, 9)
    return index.flatten()


class Source(Enum):
    """Where a branch reads."""

    STREAM = "the residual stream before the sublayer's norm"
    NORMED = "the sublayer's input, after its norm"
    OUTPUT = "the sublayer's output, before any branch; its delta shares the output's drop path"

    def of(self, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        return {Source.STREAM: stream, Source.NORMED: normed, Source.OUTPUT: out}[self]


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """A bottleneck beside or behind a sublayer: delta = scale * (drop(act(u W_d + b_d)) W_u + b_u).

    With a convolution the middle is act(conv(act(u W_d + b_d))).

    Attributes:
        sublayer: `blocks.L.attn` or `blocks.L.mlp`.
        source: Where u is read.
        down: [D, R]; down_bias: [R]; up: [R, D]; up_bias: [D].
        dropout: Rate before the up projection in training.
    """

    sublayer: str
    source: Source
    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    scale: float
    activation: Callable[[Tensor], Tensor]
    conv: Conv | None = None
    dropout: float = 0.0

    def hidden(self, u: Tensor, tokens: int) -> Tensor:
        """The bottleneck [B, n N, R] of u [B, n N, D], n images of N tokens."""
        h = self.activation(product(u, self.down, self.down_bias))
        return h if self.conv is None else self.activation(self.conv(h, tokens))

    def delta(
        self, stream: Tensor, normed: Tensor, out: Tensor, alpha: Alpha, noise: Noise | None = None
    ) -> Tensor:
        u = self.source.of(stream, normed, out)
        h = dropped(self.hidden(u, u.shape[1]), self.dropout, noise)
        return at_alpha(product(h, self.up, self.up_bias), alpha) * self.scale

    def join_(self, target: Tensor, hidden: Tensor, alpha: Alpha) -> None:
        """target += delta, from the bottleneck, without a temporary tensor; for inference."""
        add_product_(target, at_alpha(hidden, alpha), self.up, self.scale)
        target.add_(at_alpha(self.up_bias.expand_as(target), alpha), alpha=self.scale)
