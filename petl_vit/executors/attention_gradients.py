"""Attention in training, with its gradient a few rows at a time, so that what it reads stays in the cache.

On a CPU, PyTorch's gradient of attention takes three times as long in bf16 as in float32. So where the
products around it are in bf16, scores and softmax are float32 and the weights are kept in bf16, for products
in bf16; where these would take much memory, as images are large, or where keys are added, it is PyTorch's in
float32. On other devices it is PyTorch's own.

Shapes: B rows, N tokens, n added keys, D width, H heads, d head width.
"""

from collections.abc import Iterator, Sequence
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
_AT_ONCE = 2**18
"""Elements of the queries, keys and values of so many rows as the gradient is computed of at once."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, H, N, d] over keys and values [B, H, n + N, d] -> [B, N, D]."""
    if not _by_hand(q):
        return merge_heads(F.scaled_dot_product_attention(q, k, v))
    return cast("Tensor", _Attention.apply(q, k, v))


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """[B, N, 3D] -> [B, N, D]"""
    if not _by_hand(qkv):
        q, k, v = cast("tuple[Tensor, Tensor, Tensor]", _Split.apply(qkv, heads))
        return merge_heads(F.scaled_dot_product_attention(q, k, v))
    _, tokens, width = qkv.shape
    kind = _InBf16 if qkv.dtype == torch.bfloat16 and 3 * heads * tokens <= 4 * width else _SelfAttention
    return cast("Tensor", kind.apply(qkv, heads))


def _by_hand(x: Tensor) -> bool:
    return x.is_cpu and _FORWARD is not None and _BACKWARD is not None


class _Split(Function):
    """`split_heads`, whose gradient is written in one pass: autograd would stack and then copy it."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        return split_heads(qkv, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return torch.stack([of_one.transpose(1, 2) for of_one in gradients], dim=2).flatten(2), None


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
        for part in _parts(qkv):
            q, k, v = split_heads(wide(qkv[part]), ctx.heads)
            found = _backward(grad[part], q, k, v, out[part], sums[part])
            for into, of_one in zip(split_heads(of_qkv[part], ctx.heads), found, strict=True):
                into.copy_(of_one)
        return of_qkv, None


class _InBf16(Function):
    """The same of queries, keys and values in bf16, with the weights [B H, N, N] kept in bf16."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        rows, tokens, width = qkv.shape
        out = qkv.new_empty(rows, tokens, width // 3)
        weights = qkv.new_empty(rows * heads, tokens, tokens)
        scale = (width // (3 * heads)) ** -0.5
        for part, kept in _chunks(rows, heads):
            q, k, v = split_heads(qkv[part], heads)
            scores = torch.bmm(_batched(q.float()) * scale, _batched(k.float()).transpose(1, 2))
            weights[kept].copy_(torch.softmax(scores, dim=-1))
            found = torch.bmm(weights[kept], _batched(v)).unflatten(0, (-1, heads))
            out[part].unflatten(-1, (heads, -1)).copy_(found.transpose(1, 2))
        ctx.save_for_backward(qkv, weights)
        ctx.heads, ctx.scale = heads, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, weights = ctx.saved_tensors
        of_qkv, heads = torch.empty_like(qkv), ctx.heads
        for part, kept in _chunks(len(qkv), heads):
            q, k, v = (_batched(x) for x in split_heads(qkv[part], heads))
            of_out = _batched(grad[part].unflatten(-1, (heads, -1)).transpose(1, 2))
            p = weights[kept]
            of_p = torch.bmm(of_out, v.transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_p, p, -1, qkv.dtype).mul_(ctx.scale)
            found = (
                torch.bmm(of_scores, k),
                torch.bmm(of_scores.transpose(1, 2), q),
                torch.bmm(p.transpose(1, 2), of_out),
            )
            for into, of_one in zip(split_heads(of_qkv[part], heads), found, strict=True):
                into.copy_(of_one.unflatten(0, (-1, heads)))
        return of_qkv, None


_CHUNK = 4
"""Rows whose weights are computed at once."""


def _chunks(rows: int, heads: int) -> Iterator[tuple[slice, slice]]:
    """A few rows at a time, and their heads among those of all rows."""
    for first in range(0, rows, _CHUNK):
        stop = min(rows, first + _CHUNK)
        yield slice(first, stop), slice(first * heads, stop * heads)


def _batched(x: Tensor) -> Tensor:
    """[b, H, N, d] -> [b H, N, d]"""
    return x.reshape(-1, *x.shape[2:])


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
        *inputs, out, sums = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in inputs]
        for part in _parts(*inputs):
            q, k, v = (wide(x[part]) for x in inputs)
            found = _backward(grad[part], q, k, v, out[part], sums[part])
            for into, of_one in zip(gradients, found, strict=True):
                into[part].copy_(of_one)
        return tuple(gradients)


def _parts(*inputs: Tensor) -> Iterator[slice]:
    """The rows [B, ...] that the gradient is computed of at once."""
    rows = max(1, _AT_ONCE // max(1, sum(x[0].numel() for x in inputs)))
    return (slice(first, first + rows) for first in range(0, len(inputs[0]), rows))


def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The output [B, H, N, d], and the logarithms of the softmaxes' sums."""
    out, sums = cast("Any", _FORWARD)(q, k, v, 0.0, False)
    return out, sums


def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor) -> Sequence[Tensor]:
    """The gradients of queries, keys and values, from that of the output [b, N, D]."""
    of_out = wide(grad).unflatten(-1, (out.shape[1], -1)).transpose(1, 2)
    found: Sequence[Tensor] = cast("Any", _BACKWARD)(of_out, q, k, v, out, sums, 0.0, False)
    return found
