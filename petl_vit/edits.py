"""The edits: what a PETL method may do to the frozen forward, each kind defined once.

Here are those at a site and those of a parameter; `petl_vit.branch` and `petl_vit.prompts` have the others.

The rule at a site: every edit reads the site's input x and the frozen operation's output y on that x,
never another edit's result, and the deltas are summed. So a sum over adapters is exactly the sum of
their weight changes wherever a method folds. alpha is per row: 1 = as trained, 0 = the frozen model.

`delta` is the definition that every executor uses or is tested against; `fold` is the same statement
about weights. Tensors follow the row-vector convention (x A, not A x). All tensors of an edit live on the
backbone's device, in the dtype of its residual stream whatever its products are in. Source of the algebra:
docs/structure.md.

Shapes: B rows, N tokens, D width, W output width of a site, R rank.

Every tensor of an edit may have a leading dimension of stacked adapters, each for equally many rows that
follow each other: vectors are then [A, 1, W] instead of [W], matrices [A, in, R] instead of [in, R]
(`petl_vit.slots`), and the rows [A, n N, D], n images of N tokens of each adapter.
"""

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import assert_never, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.branch import Branch
from petl_vit.noise import Noise, dropped
from petl_vit.per_row import Alpha, add_product_, at_alpha, beside, product
from petl_vit.products import DenseParams, Params, product_alone
from petl_vit.prompts import Prefix, Queries, Tokens


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

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, noise: Noise | None = None) -> Tensor:
        delta = y.new_zeros(()) if self.scale is None else (beside(self.scale, y) - 1) * y
        delta = delta if self.shift is None else delta + beside(self.shift, y)
        return at_alpha(delta.expand_as(y), alpha)

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta in one pass over y, with the same result for alpha 1 and None; for inference."""
        scale = None if self.scale is None else beside(self.scale, y)
        shift = None if self.shift is None else beside(self.shift, y)
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

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, noise: Noise | None = None) -> Tensor:
        if self.weight.dim() == 1:
            normal = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        else:
            weight, bias = beside(self.weight, x), beside(self.bias, x)
            width = int(x.shape[-1])  # a constant in a recorded forward
            normal = torch.addcmul(bias, F.layer_norm(x, (width,), eps=self.eps), weight)
        return at_alpha(normal, alpha)

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

    def _bottleneck(self, x: Tensor, alpha: Alpha, noise: Noise | None) -> Tensor:
        """[B, N, in] -> [B, N k, R], alpha included."""
        h = product(dropped(x, self.dropout, noise), self.a, self.a0)
        h = at_alpha(dropped(h, self.bottleneck_dropout, noise), alpha)
        return h.reshape(
            x.shape[0], -1, self.b.shape[-2]
        )  # `len` would fix the batch size of a recorded forward

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, noise: Noise | None = None) -> Tensor:
        delta = (self._bottleneck(x, alpha, noise) @ self.b).view_as(y)
        return delta if self.shift is None else delta + at_alpha(self.shift.expand_as(y), alpha)

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta in one product, or two passes with a shift; for inference."""
        parts = y.view(len(y), -1, self.b.shape[-1])
        add_product_(parts, self._bottleneck(x, alpha, None), self.b)
        if self.shift is not None:
            y.add_(at_alpha(self.shift.expand_as(y), alpha))

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
class Input:
    """delta = scale * W(x (R - 1)) at a linear: its input is turned or scaled, the frozen weight stays.

    R - 1 is diagonal or of equal blocks; one of the two is given. A delta costs one more product with W.
    Where it changes the input of all outputs alike (`is_whole`), an executor may change the input itself.

    Attributes:
        diagonal: [in] or None.
        blocks: [in / b, b, b] or None; a block's part of x is multiplied from the left.
        scale: [W], or None for 1.
        outputs: The first output of those that change, and the first after them; None for all. `scale` is of
            these alone.
        frozen: What has W; executors give it (`EditSet.over`).
    """

    site: str
    diagonal: Tensor | None = None
    blocks: Tensor | None = None
    scale: Tensor | None = None
    outputs: tuple[int, int] | None = None
    frozen: Params | None = None

    @property
    def is_whole(self) -> bool:
        """Whether W(x R) is all that it does, so that one product with W is enough."""
        return self.scale is None and self.outputs is None

    @property
    def scales(self) -> bool:
        """Whether it is a scale of the input and no more."""
        return self.diagonal is not None and self.is_whole

    def factor(self, alpha: Alpha) -> Tensor:
        """[in] or [B, 1, in]: what the input is multiplied by, where this edit `scales` and is alone."""
        assert self.diagonal is not None
        return 1 + (self.diagonal if alpha is None else self.diagonal * alpha)

    def moved(self, x: Tensor, alpha: Alpha) -> Tensor:
        """[B, N, in] -> same: alpha x (R - 1)."""
        if self.diagonal is not None:
            return at_alpha(beside(self.diagonal, x) * x, alpha)
        assert self.blocks is not None
        parts = x.to(self.blocks.dtype).unflatten(-1, (-1, self.blocks.shape[-1]))
        return at_alpha(torch.einsum("...tnb,...nbc->...tnc", parts, self.blocks).flatten(-2), alpha)

    def _change(self, x: Tensor, alpha: Alpha) -> Tensor:
        """The product's delta [B, N, W'], alpha included, of the outputs that change."""
        assert self.frozen is not None, "no executor has given the frozen weight"
        rows = slice(None) if self.outputs is None else slice(*self.outputs)
        change = product_alone(self.frozen, self.site, self.moved(x, alpha), rows)
        return change if self.scale is None else change * beside(self.scale, change)

    def delta(self, x: Tensor, y: Tensor, alpha: Alpha, noise: Noise | None = None) -> Tensor:
        change = self._change(x, alpha)
        if self.outputs is None:
            return change.view_as(y)
        first, last = self.outputs
        return F.pad(change, (first, int(y.shape[-1]) - last)).view_as(y)

    def apply_(self, x: Tensor, y: Tensor, alpha: Alpha) -> None:
        """y += delta; for inference."""
        rows = slice(None) if self.outputs is None else slice(*self.outputs)
        y[..., rows] += self._change(x, alpha)

    def fold(self, frozen: Params, weights: MutableMapping[str, Tensor], alpha: float) -> None:
        weight = f"{self.site}.weight"
        rows = slice(None) if self.outputs is None else slice(*self.outputs)
        w = frozen[weight][rows]
        if self.diagonal is not None:
            change = w * self.diagonal
        else:
            assert self.blocks is not None
            parts = w.unflatten(1, (-1, self.blocks.shape[-1]))
            change = torch.einsum("onc,nbc->onb", parts, self.blocks.to(w.dtype)).flatten(1)
        change = change if self.scale is None else change * self.scale.unsqueeze(1)
        changed = weights[weight].clone()
        changed[rows] += alpha * change
        weights[weight] = changed


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


AtSite = Affine | NormDelta | LowRank | Input
Foldable = AtSite | Dense
Edit = Foldable | Branch | Prefix | Tokens | Queries


def scaled(edit: Edit, weight: float) -> Edit:
    """The edit with its deltas, and the attention weights of its prompts, times `weight`."""
    match edit:
        case Affine():
            scale = None if edit.scale is None else 1 + weight * (edit.scale - 1)
            return replace(edit, scale=scale, shift=_times(edit.shift, weight))
        case NormDelta():
            return replace(edit, weight=weight * edit.weight, bias=weight * edit.bias)
        case LowRank():
            return replace(edit, b=weight * edit.b, shift=_times(edit.shift, weight))
        case Input():
            diagonal, blocks = _times(edit.diagonal, weight), _times(edit.blocks, weight)
            return replace(edit, diagonal=diagonal, blocks=blocks)
        case Branch():
            return replace(edit, scale=weight * edit.scale)
        case Prefix() | Tokens() | Queries() | Dense():
            return replace(edit, weight=weight * edit.weight)
    assert_never(edit)


def _times(tensor: Tensor | None, weight: float) -> Tensor | None:
    return None if tensor is None else weight * tensor


def fold(frozen: Params, terms: list[tuple[Foldable, float]]) -> dict[str, Tensor]:
    """The frozen parameters with every term's weight change, scaled by its alpha, added.

    Changes are added in at least float32 and rounded to the parameter's dtype; all else is shared.
    """
    plain = DenseParams(frozen)
    weights = ChainMap[str, Tensor]({}, cast("dict[str, Tensor]", plain))
    for edit, alpha in terms:
        edit.fold(plain, weights, alpha)
    changed = weights.maps[0]
    return dict(frozen) | {
        name: t.to(frozen[name].dtype) if name in frozen else t for name, t in changed.items()
    }
