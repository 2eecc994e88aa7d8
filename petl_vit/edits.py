"""The edits: what a PETL method may do to the frozen forward, each kind defined once.

The rule at a site: every edit reads the site's input x and the frozen operation's output y on that x,
never another edit's result, and the deltas are summed. So a sum over adapters is exactly the sum of
their weight changes wherever a method folds. alpha is per row: 1 = as trained, 0 = the frozen model.

`delta` is the definition that both executors use; `fold` is the same statement about weights. Tensors
follow the row-vector convention (x A, not A x). All tensors of an edit live on the backbone's device,
in the dtype of its residual stream whatever its products are in. Source of the algebra: docs/structure.md.

Shapes: B rows, N tokens, D width, W output width of a site, R rank or bottleneck, H heads, d head width.

Every tensor of an edit may have a leading dimension of stacked adapters, each for equally many rows that
follow each other: vectors are then [A, 1, W] instead of [W], matrices [A, in, R] instead of [in, R]
(`petl_vit.slots`), and the rows [A, n N, D], n images of N tokens of each adapter.
"""

from collections import ChainMap
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import assert_never, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from petl_vit.products import DenseParams, Params

Alpha = Tensor | None
"""Per-row factors, [B, 1, 1]; None means 1 for every row."""


def _scaled(delta: Tensor, alpha: Alpha) -> Tensor:
    if alpha is None:
        return delta
    return delta * (alpha if delta.dim() == 3 else alpha.flatten(1))


def _like(vector: Tensor, y: Tensor) -> Tensor:
    """A vector [W] or one for each row [B, 1, W], to go with y [B, N, W] or [B, W]."""
    return vector.flatten(1) if vector.dim() == 3 and y.dim() == 2 else vector


def _product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """x W + b of [B, N, in], with W [in, R] and b [R], or one for each row: [B, in, R] and [B, 1, R]."""
    x = x.to(matrix.dtype)
    if matrix.dim() == 2:
        return F.linear(x, matrix.T, bias)
    return torch.bmm(x, matrix) if bias is None else torch.baddbmm(bias, x, matrix)


def _add_product_(y: Tensor, h: Tensor, matrix: Tensor, scale: float = 1.0) -> None:
    """y += scale h W in one kernel: y [B, N, W], h [B, N, R], W [R, W] or [B, R, W]."""
    if matrix.dim() == 2:
        y.view(-1, matrix.shape[-1]).addmm_(h.reshape(-1, matrix.shape[0]), matrix, alpha=scale)
    else:
        y.baddbmm_(h, matrix, alpha=scale)


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
        delta = y.new_zeros(()) if self.scale is None else (_like(self.scale, y) - 1) * y
        delta = delta if self.shift is None else delta + _like(self.shift, y)
        return _scaled(delta.expand_as(y), alpha)

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta in one pass over y, the same whether alpha is 1 or None; for inference."""
        scale = None if self.scale is None else _like(self.scale, y)
        shift = None if self.shift is None else _like(self.shift, y)
        if alpha is not None:
            factor = alpha if y.dim() == 3 else alpha.flatten(1)
            scale = None if scale is None else torch.lerp(torch.ones_like(scale), scale, factor)
            shift = None if shift is None else shift * factor
        if scale is not None and shift is not None:
            torch.addcmul(shift, y, scale, out=y)
        elif scale is not None:
            y.mul_(scale)
        elif shift is not None:
            y.add_(shift)

    def fold(self, frozen: Params, weights: MutableMapping[str, Tensor], alpha: float) -> None:
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
class NormDelta:
    """delta = dw * x_hat + db at a LayerNorm, x_hat being the normalised input.

    Attributes:
        weight: dw, [D]; bias: db, [D].
        eps: The LayerNorm's.
    """

    site: str
    weight: Tensor
    bias: Tensor
    eps: float

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, training: bool = False) -> Tensor:
        if self.weight.dim() == 1:
            normal = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        else:
            weight, bias = _like(self.weight, x), _like(self.bias, x)
            width = int(x.shape[-1])  # never a number that a recorded forward looks up
            normal = torch.addcmul(bias, F.layer_norm(x, (width,), eps=self.eps), weight)
        return _scaled(normal, alpha)

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta; for inference."""
        y.add_(self.delta(x, y, alpha))

    def fold(self, frozen: Params, weights: MutableMapping[str, Tensor], alpha: float) -> None:
        weight, bias = f"{self.site}.weight", f"{self.site}.bias"
        weights[weight] = weights[weight] + alpha * self.weight
        weights[bias] = weights[bias] + alpha * self.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """delta = drop'(drop(x) A + a_0) B + shift at a linear.

    Attributes:
        a: [in, k R]; a0: [k R] or None.
        b: [R, W / k], applied to each of the k parts of the bottleneck (FacT); k is 1 for all others.
        shift: [W] or None.
        dropout: Rate on x in training; bottleneck_dropout: on the bottleneck.
    """

    site: str
    a: Tensor
    b: Tensor
    a0: Tensor | None = None
    shift: Tensor | None = None
    dropout: float = 0.0
    bottleneck_dropout: float = 0.0

    def _bottleneck(self, x: Tensor, alpha: Alpha, training: bool) -> Tensor:
        """[B, N, in] -> [B, N k, R], alpha included."""
        h = _product(F.dropout(x, self.dropout, training), self.a, self.a0)
        h = _scaled(F.dropout(h, self.bottleneck_dropout, training), alpha)
        return h.reshape(x.shape[0], -1, self.b.shape[-2])  # not len: it fixes a recorded batch size

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, training: bool = False) -> Tensor:
        delta = (self._bottleneck(x, alpha, training) @ self.b).view_as(y)
        return delta if self.shift is None else delta + _scaled(self.shift.expand_as(y), alpha)

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta in one product, or two passes with a shift; for inference."""
        parts = y.view(len(y), -1, self.b.shape[-1])
        _add_product_(parts, self._bottleneck(x, alpha, False), self.b)
        if self.shift is not None:
            y.add_(_scaled(self.shift.expand_as(y), alpha))

    def fold(self, frozen: Params, weights: MutableMapping[str, Tensor], alpha: float) -> None:
        weight, bias = f"{self.site}.weight", f"{self.site}.bias"
        parts = self.a.unflatten(1, (-1, self.b.shape[0]))
        weights[weight] = weights[weight] + alpha * (parts @ self.b).flatten(1).T
        shifts = [] if self.shift is None else [self.shift]
        if self.a0 is not None:
            shifts.append((self.a0.view(-1, self.b.shape[0]) @ self.b).flatten())
        for shift in shifts:
            weights[bias] = weights.get(bias, torch.zeros_like(shift)) + alpha * shift


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
        # A product, as convolutions of so few channels spend their time on changing layouts.
        taps = self.weight.flatten(-2).transpose(-2, -1).flatten(-2).transpose(-2, -1)  # [9 R, R]
        return _product(windows.view(h.shape[0], -1, taps.shape[-2]), taps, self.bias)


@lru_cache(maxsize=64)
def _neighbours(tokens: int, grid: int) -> NDArray[np.int64]:
    """[9 N]: the tokens that a 3x3 window over each token covers, row by row; N where it covers none."""
    patches = grid**2 if tokens >= grid**2 else 0
    single = tokens - patches
    found = np.full((tokens, 9), tokens)
    found[:single, 4] = np.arange(single)
    if patches:
        around = np.full((grid + 2, grid + 2), tokens)
        around[1:-1, 1:-1] = np.arange(single, tokens).reshape(grid, grid)
        found[single:] = np.lib.stride_tricks.sliding_window_view(around, (3, 3)).reshape(-1, 9)
    return found.flatten()


class Source(Enum):
    """What a branch reads."""

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
        source: What u is.
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
        """The bottleneck [B, n N, R] of what the source says [B, n N, D], n images of N tokens."""
        h = self.activation(_product(u, self.down, self.down_bias))
        return h if self.conv is None else self.activation(self.conv(h, tokens))

    def delta(
        self, stream: Tensor, normed: Tensor, out: Tensor, alpha: Alpha, training: bool = False
    ) -> Tensor:
        u = self.source.of(stream, normed, out)
        h = F.dropout(self.hidden(u, u.shape[1]), self.dropout, training)
        return _scaled(_product(h, self.up, self.up_bias), alpha) * self.scale

    def join_(self, target: Tensor, hidden: Tensor, alpha: Alpha) -> None:
        """target += delta, from its bottleneck, without a tensor in between; for inference."""
        _add_product_(target, _scaled(hidden, alpha), self.up, self.scale)
        target.add_(_scaled(self.up_bias.expand_as(target), alpha), alpha=self.scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Prompt tokens in front of the sequence, carried through all blocks and dropped before the final norm.

    As keys their unnormalised attention weight is multiplied by alpha (ours), for every query.

    Attributes:
        prompts: [n, D].
        dropout: Rate on them in training, a mask for each row.
        weight: Multiplies every row's alpha.
    """

    prompts: Tensor
    dropout: float = 0.0
    weight: float = 1.0

    def rows(self, count: int, training: bool = False) -> Tensor:
        """[count, n, D]."""
        return F.dropout(self.prompts.expand(count, -1, -1), self.dropout, training)


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
        weight: Multiplies every row's alpha.
    """

    block: int
    prompts: Tensor
    project: Callable[[Tensor], tuple[Tensor, Tensor]]
    dropout: float = 0.0
    weight: float = 1.0

    def keys_values(self, rows: int, training: bool = False) -> tuple[Tensor, Tensor]:
        """Keys and values, each [rows or 1, H, n, d]."""
        prompts = self.prompts.unsqueeze(0)
        if training and self.dropout:
            prompts = F.dropout(prompts.expand(rows, -1, -1), self.dropout, True)
        return self.project(prompts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """Queries beside every block, whose outputs join the feature f: f += alpha weight (m - f).

    m = mix_0 f / |f| + the outputs of all blocks' queries, in order, times the rest of mix. The tokens of
    the forward do not see them.

    Attributes:
        mix: [1 + M n].
        prompts: [n, D] for each of M blocks.
        through_block: Block number, prompts, and the block's keys and values [B, H, N, d] -> [B, n, D].
        weight: Multiplies every row's alpha.
    """

    mix: Tensor
    prompts: tuple[Tensor, ...]
    through_block: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    weight: float = 1.0

    def outputs(self, block: int, keys: Tensor, values: Tensor) -> Tensor:
        """[B, n, D]: what the queries of a block become, L2-normalised."""
        return F.normalize(self.through_block(block, self.prompts[block], keys, values), dim=-1)

    def feature(self, feature: Tensor, outputs: Sequence[Tensor], alpha: Alpha) -> Tensor:
        """The delta of the feature [B, D], from the outputs of all blocks."""
        vectors = torch.cat([F.normalize(feature, dim=-1).unsqueeze(1), *outputs], dim=1)
        return _scaled(self.weight * (self.mix @ vectors - feature), alpha)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """A parameter of the frozen model replaced: W_0 + alpha weight (W - W_0)."""

    name: str
    tensor: Tensor
    weight: float = 1.0

    def fold(self, frozen: Params, weights: MutableMapping[str, Tensor], alpha: float) -> None:
        alpha = alpha * self.weight
        if alpha == 1 and weights[self.name] is frozen[self.name]:
            weights[self.name] = self.tensor
        else:
            weights[self.name] = weights[self.name] + alpha * (self.tensor - frozen[self.name])


AtSite = Affine | NormDelta | LowRank
Foldable = AtSite | Dense
Edit = Foldable | Branch | Prefix | Tokens | Queries


def scaled(edit: Edit, weight: float) -> Edit:
    """The edit whose every delta is `weight` times that of `edit`; keys of prompts count `weight` times."""
    match edit:
        case Affine():
            scale = None if edit.scale is None else 1 + weight * (edit.scale - 1)
            return replace(edit, scale=scale, shift=_times(edit.shift, weight))
        case NormDelta():
            return replace(edit, weight=weight * edit.weight, bias=weight * edit.bias)
        case LowRank():
            return replace(edit, b=weight * edit.b, shift=_times(edit.shift, weight))
        case Branch():
            return replace(edit, scale=weight * edit.scale)
        case Prefix() | Tokens() | Queries() | Dense():
            return replace(edit, weight=weight * edit.weight)
    assert_never(edit)


def _times(tensor: Tensor | None, weight: float) -> Tensor | None:
    return None if tensor is None else weight * tensor


def weighted(alpha: Alpha, weight: float, like: Tensor) -> Alpha:
    """alpha times an edit's own weight, [B or 1, 1, 1]; None where that is 1 for every row."""
    if weight == 1:
        return alpha
    dtype = torch.promote_types(like.dtype, torch.float32)
    return like.new_full((1, 1, 1), weight, dtype=dtype) if alpha is None else alpha * weight


def fold(frozen: Params, terms: list[tuple[Foldable, float]]) -> dict[str, Tensor]:
    """The frozen parameters with every term's weight change, scaled by its alpha, added.

    Changes are added in at least float32 and kept in the dtype of what they change; all else is shared.
    """
    plain = DenseParams(frozen)
    weights = ChainMap[str, Tensor]({}, cast("dict[str, Tensor]", plain))
    for edit, alpha in terms:
        edit.fold(plain, weights, alpha)
    changed = weights.maps[0]
    return dict(frozen) | {
        name: t.to(frozen[name].dtype) if name in frozen else t for name, t in changed.items()
    }


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefixes: list[tuple[Tensor, Tensor, Alpha]],
    tokens: Tensor | None = None,
) -> Tensor:
    """Attention of [B, H, N, d] with further keys and values in front.

    Args:
        prefixes: Keys and values [A, H, n, d], each of B / A rows, and the factor of their unnormalised
            weights, [B, 1, 1].
        tokens: [B, 1, N], the log of the factor of each token's own key, or None for 0.
    """
    if not prefixes:
        bias = None if tokens is None else tokens.unsqueeze(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    rows = q.shape[0]
    keys = _joined([p for p, _, _ in prefixes], k)
    values = _joined([p for _, p, _ in prefixes], v)
    bias = None
    if tokens is not None or any(alpha is not None for _, _, alpha in prefixes):
        own = q.new_zeros(rows, 1, k.shape[2]) if tokens is None else tokens
        parts = [log_weights(alpha, rows, p) for p, _, alpha in prefixes]
        bias = torch.cat([*parts, own], dim=2).unsqueeze(1)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


def _joined(prefixes: Sequence[Tensor], own: Tensor) -> Tensor:
    """Keys or values [A, H, n, d] in front of rows' own [B, H, N, d]: [B, H, n + N, d] in the rows' dtype."""
    rows, parts = own.shape[0], [p.to(own.dtype) for p in prefixes]
    if all(p.shape[0] in (1, rows) for p in parts):
        return torch.cat([*(p.expand(rows, -1, -1, -1) for p in parts), own], dim=2)
    adapters = max(p.shape[0] for p in parts)
    each = own.unflatten(0, (adapters, -1))
    repeated = [
        p.expand(adapters, -1, -1, -1).unsqueeze(1).expand(-1, each.shape[1], -1, -1, -1) for p in parts
    ]
    return torch.cat([*repeated, each], dim=3).flatten(0, 1)


def log_weights(alpha: Alpha, rows: int, keys: Tensor) -> Tensor:
    """ln alpha for each of n keys [..., n, d]: [B, 1, n]; -inf at 0, where the keys are absent."""
    if alpha is None:
        return keys.new_zeros(rows, 1, keys.shape[-2])
    return alpha.log().expand(rows, -1, keys.shape[-2])
