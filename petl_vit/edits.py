"""The edits: what a PETL method may do to the frozen forward, each kind defined once.

The rule at a site: every edit reads the site's input x and the frozen operation's output y on that x,
never another edit's result, and the deltas are summed. So a sum over adapters is exactly the sum of
their weight changes wherever a method folds. alpha is per row: 1 = as trained, 0 = the frozen model.

`delta` is the definition that both executors use; `fold` is the same statement about weights. Tensors
follow the row-vector convention (x A, not A x). All tensors of an edit live on the backbone's device
in its dtype. Source of the algebra: docs/structure.md.

Shapes: B rows, N tokens, D width, W output width of a site, R rank or bottleneck, H heads, d head width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.vit import Params

Alpha = Tensor | None
"""Per-row factors, [B, 1, 1]; None means 1 for every row."""


def _scaled(delta: Tensor, alpha: Alpha) -> Tensor:
    if alpha is None:
        return delta
    return delta * (alpha if delta.dim() == 3 else alpha.flatten(1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """delta = (scale - 1) * y + shift, at a linear, a LayerNorm or the patch embedding.

    Attributes:
        scale: [W], or None for 1.
        shift: [W], or None for 0.
    """

    site: str
    scale: Tensor | None = None
    shift: Tensor | None = None

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, training: bool = False) -> Tensor:
        delta = y.new_zeros(()) if self.scale is None else (self.scale - 1) * y
        delta = delta if self.shift is None else delta + self.shift
        return _scaled(delta.expand_as(y), alpha)

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta, in one or two passes over y; for inference."""
        if alpha is None and self.scale is not None and self.shift is not None:
            torch.addcmul(self.shift, y, self.scale, out=y)
        elif alpha is None and self.shift is not None:
            y.add_(self.shift)
        else:
            y.add_(self.delta(x, y, alpha))

    def fold(self, frozen: Params, weights: dict[str, Tensor], alpha: float) -> None:
        """Adds alpha times this edit's weight change to `weights`, which start as the frozen ones."""
        weight, bias = f"{self.site}.weight", f"{self.site}.bias"
        if self.scale is not None:
            gain = alpha * (self.scale - 1)
            w = frozen[weight]
            weights[weight] = weights[weight] + gain.view(-1, *[1] * (w.dim() - 1)) * w
            if bias in frozen:
                weights[bias] = weights[bias] + gain * frozen[bias]
        if self.shift is not None:
            weights[bias] = weights.get(bias, torch.zeros_like(self.shift)) + alpha * self.shift


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """delta = drop(x) A B at a linear.

    Attributes:
        a: [in, R].
        b: [R, W].
        dropout: Rate on x in training.
    """

    site: str
    a: Tensor
    b: Tensor
    dropout: float = 0.0

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, training: bool = False) -> Tensor:
        x = F.dropout(x, self.dropout, training)
        return _scaled(x @ self.a, alpha) @ self.b

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta in one product; for inference."""
        h = _scaled(x @ self.a, alpha)
        y.view(-1, y.shape[-1]).addmm_(h.view(-1, h.shape[-1]), self.b)

    def fold(self, frozen: Params, weights: dict[str, Tensor], alpha: float) -> None:
        weight = f"{self.site}.weight"
        weights[weight] = weights[weight] + alpha * (self.a @ self.b).T


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """A bottleneck beside a sublayer: delta = scale * (drop(act(u W_d + b_d)) W_u + b_u).

    u is the residual stream before the sublayer's norm. The delta joins the stream with a drop path
    mask of its own.

    Attributes:
        sublayer: `blocks.L.attn` or `blocks.L.mlp`.
        down: [D, R]; down_bias: [R]; up: [R, D]; up_bias: [D].
        dropout: Rate after the activation in training.
    """

    sublayer: str
    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    scale: float
    activation: Callable[[Tensor], Tensor]
    dropout: float = 0.0

    def delta(self, stream: Tensor, alpha: Alpha, training: bool = False) -> Tensor:
        h = self.activation(F.linear(stream, self.down.T, self.down_bias))
        h = F.dropout(h, self.dropout, training)
        return _scaled(F.linear(h, self.up.T, self.up_bias), alpha) * self.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """Extra keys and values in the attention of one block, made from prompts P.

    They are LN1(P) W_k + b_k and LN1(P) W_v + b_v with the frozen weights: exactly what prompt tokens
    in front of the block contribute when their own outputs are dropped after it. The unnormalised
    attention weight of each prompt is multiplied by alpha (ours), so at 0 they are absent.

    Attributes:
        prompts: [n, D].
        project: Frozen norm and projection of block `block`: [..., n, D] -> keys and values
            [..., H, n, d].
        dropout: Rate on P in training, a mask for each row.
    """

    block: int
    prompts: Tensor
    project: Callable[[Tensor], tuple[Tensor, Tensor]]
    dropout: float = 0.0

    def keys_values(self, rows: int, training: bool = False) -> tuple[Tensor, Tensor]:
        """Keys and values, each [rows or 1, H, n, d]."""
        prompts = self.prompts.unsqueeze(0)
        if training and self.dropout:
            prompts = F.dropout(prompts.expand(rows, -1, -1), self.dropout, True)
        return self.project(prompts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """A parameter of the frozen model replaced: W_0 + alpha (W - W_0)."""

    name: str
    tensor: Tensor

    def fold(self, frozen: Params, weights: dict[str, Tensor], alpha: float) -> None:
        if alpha == 1 and weights[self.name] is frozen[self.name]:
            weights[self.name] = self.tensor
        else:
            weights[self.name] = weights[self.name] + alpha * (self.tensor - frozen[self.name])


AtSite = Affine | LowRank
Foldable = Affine | LowRank | Dense
Edit = Affine | LowRank | Branch | Prefix | Dense


def fold(frozen: Params, terms: list[tuple[Foldable, float]]) -> dict[str, Tensor]:
    """The frozen parameters with every term's weight change, scaled by its alpha, added."""
    weights = dict(frozen)
    for edit, alpha in terms:
        edit.fold(frozen, weights, alpha)
    return weights


def attend(q: Tensor, k: Tensor, v: Tensor, prefixes: list[tuple[Tensor, Tensor, Alpha]]) -> Tensor:
    """Attention of [B, H, N, d] with further keys and values in front.

    Args:
        prefixes: Keys and values [B or 1, H, n, d] and the factor of their unnormalised weights.
    """
    if not prefixes:
        return F.scaled_dot_product_attention(q, k, v)
    rows = q.shape[0]
    keys = torch.cat([*(p.expand(rows, -1, -1, -1) for p, _, _ in prefixes), k], dim=2)
    values = torch.cat([*(p.expand(rows, -1, -1, -1) for _, p, _ in prefixes), v], dim=2)
    bias = None
    if any(alpha is not None for _, _, alpha in prefixes):
        bias = q.new_zeros(rows, 1, 1, keys.shape[2])
        start = 0
        for p, _, alpha in prefixes:
            if alpha is not None:
                bias[..., start : start + p.shape[2]] = alpha.log().unsqueeze(-1)
            start += p.shape[2]
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


def by_site(edits: list[Edit]) -> Mapping[str, list[AtSite]]:
    """Affine and low-rank edits, grouped by site."""
    grouped: dict[str, list[AtSite]] = {}
    for edit in edits:
        if isinstance(edit, Affine | LowRank):
            grouped.setdefault(edit.site, []).append(edit)
    return grouped
