"""Attention, with the keys and values that edits add, weighed by each row's alpha.

Shapes: B rows, A adapters, N tokens, n added keys, D width, H heads, d head width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.per_row import Alpha


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N, 3D] -> q, k, v, each [B, H, N, d] (views)."""
    rows, tokens, width = qkv.shape
    q, k, v = qkv.view(rows, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merge_heads(out: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, D]."""
    return out.transpose(1, 2).flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefixes: list[tuple[Tensor, Tensor, Alpha]],
    tokens: Tensor | None = None,
) -> Tensor:
    """Attention of [B, H, N, d] with added keys and values in front.

    Args:
        prefixes: Keys and values [A, H, n, d], each for B / A rows, and the factor of their unnormalised
            attention weights, [B, 1, 1].
        tokens: [B, 1, N], the log of the same factor of each token's key, or None for 0.
    """
    if not prefixes:
        return _biased(q, k, v, None if tokens is None else tokens.unsqueeze(1))
    rows = q.shape[0]
    keys = in_front([p for p, _, _ in prefixes], k)
    values = in_front([p for _, p, _ in prefixes], v)
    bias = None
    if tokens is not None or any(alpha is not None for _, _, alpha in prefixes):
        of_tokens = q.new_zeros(rows, 1, k.shape[2]) if tokens is None else tokens
        parts = [log_weights(alpha, rows, p) for p, _, alpha in prefixes]
        bias = torch.cat([*parts, of_tokens], dim=2).unsqueeze(1)
    return _biased(q, keys, values, bias)


def _biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention whose scores are added to a bias in at least float32.

    Beside factors in bf16, kernels of a GPU refuse such a bias or read its bytes as bf16
    (github.com/pytorch/pytorch/pull/191612). So there it is all in float32; a CPU takes both.
    """
    if bias is None or q.is_cpu or q.dtype == bias.dtype:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    exact, keys, values = (x.to(bias.dtype) for x in (q, k, v))
    return F.scaled_dot_product_attention(exact, keys, values, attn_mask=bias).to(q.dtype)


def in_front(prefixes: Sequence[Tensor], of_tokens: Tensor) -> Tensor:
    """Keys or values [A, H, n, d] in front of the tokens' [B, H, N, d]: [B, H, n + N, d], in their dtype."""
    rows, parts = of_tokens.shape[0], [p.to(of_tokens.dtype) for p in prefixes]
    if all(p.shape[0] in (1, rows) for p in parts):
        return torch.cat([*(p.expand(rows, -1, -1, -1) for p in parts), of_tokens], dim=2)
    adapters = max(p.shape[0] for p in parts)
    each = of_tokens.unflatten(0, (adapters, -1))
    repeated = [
        p.expand(adapters, -1, -1, -1).unsqueeze(1).expand(-1, each.shape[1], -1, -1, -1) for p in parts
    ]
    return torch.cat([*repeated, each], dim=3).flatten(0, 1)


def log_weights(alpha: Alpha, rows: int, keys: Tensor) -> Tensor:
    """ln alpha for each of n keys [..., n, d]: [B, 1, n]; -inf at 0, where the keys are absent."""
    if alpha is None:
        return keys.new_zeros(rows, 1, keys.shape[-2])
    return alpha.log().expand(rows, -1, keys.shape[-2])


def token_bias(factors: Sequence[tuple[Alpha, int]], keys: Tensor) -> Tensor | None:
    """[B, 1, N]: the log weights of carried tokens' keys [B, H, N, d], 0 for all others; None if all are 0.

    Args:
        factors: alpha and number of the tokens of each term, in order of the sequence.
    """
    if all(alpha is None for alpha, _ in factors):
        return None
    rows, carried = keys.shape[0], sum(count for _, count in factors)
    parts, start = [], 0
    for alpha, count in factors:
        parts.append(log_weights(alpha, rows, keys[:, :, start : start + count]))
        start += count
    return torch.cat([*parts, keys.new_zeros(rows, 1, keys.shape[2] - carried)], dim=2)
