"""The frozen operations that executors share.

Shapes: B rows, N tokens, D width, H heads, d head width, M hidden width."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.products import Params


def frozen_norm(params: Params, site: str, x: Tensor, eps: float) -> Tensor:
    weight = params[f"{site}.weight"]
    return F.layer_norm(x, weight.shape, weight, params[f"{site}.bias"], eps)


_ACTIVATE_IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_.default,  # a second tensor of this size costs more than the function
}


def activate_(activation: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """[B, N, M] -> same: in place where the activation can be; h is lost."""
    return _ACTIVATE_IN_PLACE.get(activation, activation)(h)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N, 3D] -> q, k, v, each [B, H, N, d] (views)."""
    rows, tokens, width = qkv.shape
    q, k, v = qkv.view(rows, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merge_heads(out: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, D]."""
    return out.transpose(1, 2).flatten(2)
