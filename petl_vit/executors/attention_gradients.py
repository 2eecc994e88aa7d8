"""Attention in training, with its gradient a few rows at a time, so that what it reads stays in the cache.

On a CPU the attention is computed in at least float32, also where the products around it are in bf16:
PyTorch's gradient of it takes three times as long in bf16 there. On other devices it is PyTorch's own.

Shapes: B rows, N tokens, n added keys, D width, H heads, d head width.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from petl_vit.attention import merge_heads, split_heads
from petl_vit.products import wide

_FORWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
_AT_ONCE = 2**20
"""Bytes of the queries, keys and values of so many rows as the gradient is computed of at once."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, H, N, d] over keys and values [B, H, n + N, d] -> [B, N, D]."""
    if not _by_hand(q):
        return merge_heads(F.scaled_dot_product_attention(q, k, v))
    return cast("Tensor", _Attention.apply(q, k, v))


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """[B, N, 3D] -> [B, N, D]"""
    if not _by_hand(qkv):
        return merge_heads(F.scaled_dot_product_attention(*split_heads(qkv, heads)))
    return cast("Tensor", _SelfAttention.apply(qkv, heads))


def _by_hand(x: Tensor) -> bool:
    return x.is_cpu and _FORWARD is not None and _BACKWARD is not None


class _SelfAttention(Function):
    """Of queries, keys and values in one tensor, which the gradient has one for, too."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        out, sums = _forward(*split_heads(wide(qkv), heads))
        ctx.save_for_backward(qkv, out, sums)
        ctx.heads = heads
        return merge_heads(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, out, sums = ctx.saved_tensors
        of_qkv = torch.empty_like(qkv)
        q, k, v = split_heads(qkv, ctx.heads)
        _backward(grad, (q, k, v), out, sums, split_heads(of_qkv, ctx.heads))
        return of_qkv, None


class _Attention(Function):
    """Of keys and values that have others in front of those of the tokens."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, sums = _forward(wide(q), wide(k), wide(v))
        ctx.save_for_backward(q, k, v, out, sums)
        return merge_heads(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums = ctx.saved_tensors
        found = tuple(torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v))
        _backward(grad, (q, k, v), out, sums, found)
        return found


def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The output [B, H, N, d], and the logarithms of the softmaxes' sums."""
    out, sums = cast("Any", _FORWARD)(q, k, v, 0.0, False)
    return out, sums


def _backward(
    grad: Tensor, inputs: tuple[Tensor, ...], out: Tensor, sums: Tensor, found: tuple[Tensor, ...]
) -> None:
    """Writes the gradients of queries, keys and values, from that of the output [B, N, D]."""
    of_out = wide(grad).unflatten(-1, (out.shape[1], -1)).transpose(1, 2)
    rows = max(1, _AT_ONCE // max(1, sum(x[0].numel() * out.itemsize for x in inputs)))
    for first in range(0, len(grad), rows):
        part = slice(first, first + rows)
        q, k, v = (wide(x[part]) for x in inputs)
        of_part = cast("Any", _BACKWARD)(of_out[part], q, k, v, out[part], sums[part], 0.0, False)
        for into, of_one in zip(found, of_part, strict=True):
            into[part].copy_(of_one)
