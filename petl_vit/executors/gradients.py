"""Operations of a forward in training, with gradients by hand that keep and pass over less than autograd.

Each is a frozen operation and the edits of several adapters, every one on its rows, as the edits' definitions
(`petl_vit.edits`, `petl_vit.branch`) have them at alpha 1. Frozen parameters get no gradient, and neither
does an input that depends on nothing that is trained. Beside weights in bf16, the products of edits at a
linear are in bf16.

Shapes: B rows of all adapters, b of one, N tokens, D width, W output width of a site, R rank, k parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from petl_vit.edits import Affine, LowRank
from petl_vit.noise import Noise

_SMALLEST_SCALE = 0.05
"""Where a scale is nearer to 0, the output before scaling is kept instead of computed from the one after."""
_EACH = 3
"""Tensors of an edit at a linear, absent ones included."""
_KEPT = 2
"""Tensors that an edit at a linear keeps for its gradients, absent ones included."""

Gradients = list[Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Edited:
    """An adapter's rows and its edit at a linear.

    Attributes:
        noise: What the edit's dropout draws from; None without dropout.
    """

    rows: slice
    edit: Affine | LowRank
    noise: Noise | None


def edited_linear(x: Tensor, weight: Tensor, bias: Tensor | None, parts: Sequence[Edited]) -> Tensor:
    """[B, N, in] -> [B, N, W] in the weight's dtype: a frozen linear, and an edit for each part's rows.

    Args:
        parts: In the order of their rows; of those with the same rows the first alone may be an `Affine`.
    """
    x = x.to(weight.dtype)
    only = parts[0].edit if len(parts) == 1 and parts[0].rows == slice(0, len(x)) else None
    if isinstance(only, Affine) and only.scale is None:
        shift = cast("Tensor", only.shift)
        return F.linear(x, weight, (shift if bias is None else bias + shift).to(weight.dtype))
    if isinstance(only, LowRank) and bias is not None and only.b.shape[1] == len(weight):
        # As a row of b the bias costs no pass of its own over the outputs.
        shift = bias if only.shift is None else bias + only.shift
        parts, bias = [replace(parts[0], edit=replace(only, shift=shift))], None
    specs, tensors = list[_Affine | _LowRank](), list[Tensor | None]()
    for part in parts:
        edit = part.edit
        if isinstance(edit, Affine):
            alone = not any(other.rows == part.rows for other in parts if other is not part)
            specs.append(_Affine(rows=part.rows, alone=alone))
            tensors += [edit.scale, edit.shift, None]
        else:
            specs.append(_LowRank.of(edit, part.rows, x, part.noise))
            b = edit.b if edit.shift is None else torch.cat([edit.b, edit.shift.unsqueeze(0)])
            tensors += [edit.a, edit.a0, b]
    return cast("Tensor", _EditedLinear.apply(x, weight, bias, specs, *tensors))


class _EditedLinear(Function):
    """See `edited_linear`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        specs: "Sequence[_Affine | _LowRank]",
        *tensors: Tensor | None,
    ) -> Tensor:
        scale, shift, kept = None, None, Gradients()
        if _scales_weight(specs, x, weight):
            scale, shift = tensors[:2]
        if scale is not None and not _near_0(scale):
            y = F.linear(x, weight * scale.unsqueeze(1), _scaled(bias, scale, shift))
            kept = [y, None]
        else:
            y = F.linear(x, weight, None if bias is None else bias.to(weight.dtype))
            for place, spec in enumerate(specs):
                kept += spec.change_(x, y, *_its(tensors, place))
        reads = any(isinstance(spec, _LowRank) and spec.kept is None for spec in specs)
        ctx.save_for_backward(weight, x if reads else None, *tensors, *kept)
        ctx.specs = specs
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, x, *rest = ctx.saved_tensors
        tensors, kept = rest[: _EACH * len(ctx.specs)], rest[_EACH * len(ctx.specs) :]
        grad, of_x = grad.contiguous(), None
        if ctx.needs_input_grad[0]:
            of_x = _of_input(grad, weight, ctx.specs, tensors)
        found = Gradients()
        for place, spec in enumerate(ctx.specs):
            found += spec.gradients(grad, x, of_x, *_its(tensors, place), *kept[_KEPT * place :][:_KEPT])
        return of_x, None, None, None, *found


def _scales_weight(specs: "Sequence[_Affine | _LowRank]", x: Tensor, weight: Tensor) -> bool:
    """Whether to scale the rows of the weight is the same as to scale the outputs, and less work."""
    first = specs[0]
    scales = isinstance(first, _Affine) and first.alone and first.rows == slice(0, len(x))
    return scales and weight.dtype.itemsize > 2 and x.numel() > weight.shape[1] ** 2


def _scaled(bias: Tensor | None, scale: Tensor, shift: Tensor | None) -> Tensor | None:
    scaled = None if bias is None else bias * scale
    if shift is None or scaled is None:
        return scaled if shift is None else shift
    return scaled + shift


def _near_0(scale: Tensor) -> bool:
    return bool((scale.abs() < _SMALLEST_SCALE).any())


def _its(tensors: Sequence[Any], place: int) -> Sequence[Any]:
    return tensors[_EACH * place : _EACH * (place + 1)]


def _of_input(
    grad: Tensor, weight: Tensor, specs: "Sequence[_Affine | _LowRank]", tensors: Sequence[Tensor | None]
) -> Tensor:
    """The gradient of a frozen linear's input, from that of its edited output [B, N, W]."""
    of_x, done = grad.new_empty(*grad.shape[:-1], weight.shape[1]), 0
    for place, spec in enumerate(specs):
        scale = tensors[_EACH * place]
        if isinstance(spec, _LowRank) or scale is None:
            continue  # what is added changes nothing here
        _product(grad[done : spec.rows.start], weight, of_x[done : spec.rows.start])
        rows, scale = grad[spec.rows], scale.to(weight.dtype)
        if rows.numel() > weight.numel():
            _product(rows, weight * scale.unsqueeze(1), of_x[spec.rows])
        else:
            _product(rows * scale, weight, of_x[spec.rows])
        done = spec.rows.stop
    _product(grad[done:], weight, of_x[done:])
    return of_x


def _product(x: Tensor, matrix: Tensor, out: Tensor) -> None:
    if len(x):
        torch.mm(_flat(x), matrix, out=_flat(out))


def _flat(x: Tensor) -> Tensor:
    """[b, N, W] -> [b N, W]"""
    return x.view(-1, x.shape[-1])


def _summed(x: Tensor) -> Tensor:
    """[n, W] -> [W], in at least float32."""
    return x.sum(dim=0, dtype=torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """scale y + shift on some rows. Its tensors are scale, shift and None.

    Attributes:
        alone: Whether no other edit adds to the rows.
    """

    rows: slice
    alone: bool

    def _keeps_before(self, scale: Tensor) -> bool:
        """Whether y before scaling is kept, as it cannot be computed from y after the edits."""
        return not self.alone or _near_0(scale)

    def change_(self, x: Tensor, y: Tensor, scale: Tensor | None, shift: Tensor | None, _: None) -> Gradients:
        """Changes y [B, N, W] in place on its rows; keeps y, or its rows as they were."""
        before, rows = None, y[self.rows]
        if scale is not None:
            before = rows.clone() if self._keeps_before(scale) else y
            rows.mul_(scale)
        if shift is not None:
            rows.add_(shift)
        return [before, None]

    def gradients(
        self,
        grad: Tensor,
        x: Tensor | None,
        of_x: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        _: None,
        kept: Tensor | None,
        _nothing: None,
    ) -> Gradients:
        """Of scale and shift, [W], from that of the output, [B, N, W]."""
        rows = _flat(grad[self.rows])
        of_shift = _summed(rows)
        if scale is None or kept is None:
            return [None, of_shift, None]
        if self._keeps_before(scale):
            of_scale = _summed(rows * _flat(kept))
        else:
            of_scale = _summed(rows * _flat(kept[self.rows]))
            of_scale = (of_scale if shift is None else of_scale - shift * of_shift) / scale
        return [of_scale, None if shift is None else of_shift, None]


@dataclass(frozen=True, kw_only=True)
class _LowRank:
    """drop'(drop(x) a + a0) b on some rows. Its tensors are a, a0 and b, whose last row is the shift if any.

    Attributes:
        kept: bool [b, N, in], the mask of dropout; inside: bool [b, N, k R], that of the bottleneck.
        factor, factor_inside: What scales up the elements that dropout keeps.
        shifted: Whether b has a row for the shift.
    """

    rows: slice
    kept: Tensor | None
    inside: Tensor | None
    factor: float
    factor_inside: float
    shifted: bool

    @classmethod
    def of(cls, edit: LowRank, rows: slice, x: Tensor, noise: Noise | None) -> "_LowRank":
        shape = tuple(x[rows].shape)
        drops, drops_inside = (
            noise is not None and rate > 0 for rate in (edit.dropout, edit.bottleneck_dropout)
        )
        inside = (*shape[:-1], edit.a.shape[1])
        return cls(
            rows=rows,
            kept=noise.kept(shape, edit.dropout) if noise and drops else None,
            inside=noise.kept(inside, edit.bottleneck_dropout) if noise and drops_inside else None,
            factor=1 / (1 - edit.dropout),
            factor_inside=1 / (1 - edit.bottleneck_dropout),
            shifted=edit.shift is not None,
        )

    def change_(self, x: Tensor, y: Tensor, a: Tensor, a0: Tensor | None, b: Tensor) -> Gradients:
        """Adds to its rows of y [B, N, W].

        Keeps the bottleneck [b N k, R], with ones for the shift, and the rows [b, N, in] that dropout left.
        """
        rows, narrow = x[self.rows], a.to(x.dtype)
        left = None if self.kept is None else rows * self.kept
        if left is not None:
            rows, narrow = left, narrow * self.factor
        h = F.linear(rows, narrow.T, None if a0 is None else a0.to(x.dtype))
        if self.inside is not None:
            h.mul_(self.inside).mul_(self.factor_inside)
        h = h.view(-1, len(b) - self.shifted)
        if self.shifted:
            h = F.pad(h, (0, 1), value=1.0)
        y[self.rows].view(-1, b.shape[1]).addmm_(h, b.to(h.dtype))
        return [h, left]

    def gradients(
        self,
        grad: Tensor,
        x: Tensor | None,
        of_x: Tensor | None,
        a: Tensor,
        a0: Tensor | None,
        b: Tensor,
        h: Tensor,
        left: Tensor | None,
    ) -> Gradients:
        """Of a, a0 and b, from that of the output, [B, N, W]; that of the input grows in place."""
        parts = grad[self.rows].view(-1, b.shape[1])
        of_b = (h.T @ parts).to(b.dtype)
        of_h = (parts @ (b[:-1] if self.shifted else b).to(grad.dtype).T).view(-1, a.shape[1])
        if self.inside is not None:
            of_h.mul_(self.inside.view(of_h.shape)).mul_(self.factor_inside)
        of_a0 = None if a0 is None else _summed(of_h)
        rows, narrow = _flat(cast("Tensor", x)[self.rows] if left is None else left), a.to(grad.dtype)
        if self.kept is not None:
            of_h.mul_(self.factor)
            if of_x is not None:
                _flat(of_x[self.rows]).add_((of_h @ narrow.T).mul_(self.kept.view(rows.shape)))
        elif of_x is not None:
            _flat(of_x[self.rows]).addmm_(of_h, narrow.T)
        return [(rows.T @ of_h).to(a.dtype), of_a0, of_b]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What a branch adds to the stream on an adapter's rows: hidden [b, N, R] up [R, D]."""

    rows: slice
    hidden: Tensor
    up: Tensor


def joined(stream: Tensor, out: Tensor, factor: Tensor | None, parts: Sequence[Joined]) -> Tensor:
    """[B, N, D] -> same: stream + factor out + what branches add.

    Args:
        out: [B, N, D], a sublayer's output; factor: [B, 1, 1], of drop path, or None for 1.
    """
    if not parts:
        return stream + out if factor is None else torch.addcmul(stream, out.to(stream.dtype), factor)
    tensors = [t for part in parts for t in (part.hidden, part.up)]
    return cast("Tensor", _Joined.apply(stream, out, factor, [part.rows for part in parts], *tensors))


class _Joined(Function):
    """See `joined`."""

    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, out: Tensor, factor: Tensor | None, rows: Sequence[slice], *tensors: Tensor
    ) -> Tensor:
        wide = out.to(stream.dtype)
        y = stream + wide if factor is None else torch.addcmul(stream, wide, factor)
        for place, part in enumerate(rows):
            hidden, up = tensors[2 * place : 2 * place + 2]
            _flat(y[part]).addmm_(hidden.reshape(-1, len(up)), up)
        ctx.save_for_backward(factor, *tensors)
        ctx.rows, ctx.dtype = rows, out.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        factor, *tensors = ctx.saved_tensors
        grad, found = grad.contiguous(), Gradients()
        for place, part in enumerate(ctx.rows):
            hidden, up = tensors[2 * place : 2 * place + 2]
            of_rows = _flat(grad[part])
            found += [(of_rows @ up.T).view(hidden.shape), hidden.reshape(-1, len(up)).T @ of_rows]
        of_out = None
        if ctx.needs_input_grad[1]:
            of_out = (grad if factor is None else grad * factor).to(ctx.dtype)
        return grad if ctx.needs_input_grad[0] else None, of_out, None, None, *found
