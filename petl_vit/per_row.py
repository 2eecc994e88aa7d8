"""How an alpha, a vector or a matrix acts on rows, be it one for all of them or one for each.

Shapes: B rows, N tokens, W output width, R rank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Alpha = Tensor | None
"""Per-row factors, [B, 1, 1]; None means 1 for every row."""


def at_alpha(delta: Tensor, alpha: Alpha) -> Tensor:
    """A delta [B, N, W] or [B, W] times each row's alpha."""
    if alpha is None:
        return delta
    return delta * (alpha if delta.dim() == 3 else alpha.flatten(1))


def beside(vector: Tensor, y: Tensor) -> Tensor:
    """A vector [W], or one for each row [B, 1, W], so that it broadcasts with y [B, N, W] or [B, W]."""
    return vector.flatten(1) if vector.dim() == 3 and y.dim() == 2 else vector


def product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """x W + b of [B, N, in], with W [in, R] and b [R], or one for each row: [B, in, R] and [B, 1, R]."""
    x = x.to(matrix.dtype)
    if matrix.dim() == 2:
        return F.linear(x, matrix.T, bias)
    return torch.bmm(x, matrix) if bias is None else torch.baddbmm(bias, x, matrix)


def add_product_(y: Tensor, h: Tensor, matrix: Tensor, scale: float = 1.0) -> None:
    """y += scale h W in one kernel: y [B, N, W], h [B, N, R], W [R, W] or [B, R, W]."""
    if matrix.dim() == 2:
        y.view(-1, matrix.shape[-1]).addmm_(h.reshape(-1, matrix.shape[0]), matrix, alpha=scale)
    else:
        y.baddbmm_(h, matrix, alpha=scale)


def weighted(alpha: Alpha, weight: float, like: Tensor) -> Alpha:
    """alpha times an edit's weight, [B or 1, 1, 1]; None where that is 1 for every row."""
    if weight == 1:
        return alpha
    dtype = torch.promote_types(like.dtype, torch.float32)
    return like.new_full((1, 1, 1), weight, dtype=dtype) if alpha is None else alpha * weight
