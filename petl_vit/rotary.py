"""Rotary positions: queries and keys of patches, turned by angles that say where the patch is.

Class and register tokens, and what edits add (prompts, their keys, VQT's queries), are not turned: they have
no place. Source: arXiv 2104.09864; DINOv3 (arXiv 2508.10104), EVA-02 (arXiv 2303.11331); numbers as timm's.

Shapes: B rows, N tokens of which the last P are the patches, D width, H heads, d head width.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from petl_vit.facts import Rotary
from petl_vit.products import wide

COSINES, SINES = "rotary.cos", "rotary.sin"
TABLES = frozenset({COSINES, SINES})
"""Names of the tables among a backbone's tensors at one image size. They are no parameters."""
_AT_ONCE = 2**18
"""Elements of queries and keys of so many rows as a CPU turns at once, so that they stay in its cache."""


def tables(rotary: Rotary, grid: int, head_width: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Cosines and sines of the angles of every pair, each [grid^2, d / 2], by name; in at least float32.

    timm computes coordinates and frequencies in float32; so do we, to have its angles.
    """
    pairs, precise = head_width // 4, torch.promote_types(dtype, torch.float32)
    steps = torch.arange(pairs, dtype=torch.int64).float()
    if rotary.kind == "dinov3":
        periods = rotary.temperature ** (2.0 * steps / (head_width // 2))
        along = 2.0 * ((torch.arange(0.5, grid) + rotary.offset) / float(grid)) - 1.0
        angles = 2 * math.pi * along.to(precise).unsqueeze(1) / periods.to(precise)
    else:
        along = torch.arange(grid, dtype=torch.int64).float() + rotary.offset
        if rotary.reference is not None:
            along = along / grid * rotary.reference
        angles = along.unsqueeze(1) * (1.0 / (rotary.temperature ** (steps / pairs)))
    rows, columns = angles.unsqueeze(1).expand(-1, grid, -1), angles.unsqueeze(0).expand(grid, -1, -1)
    order = (columns, rows) if rotary.column_first else (rows, columns)
    of_patches = torch.cat(order, dim=-1).flatten(0, 1)
    return {COSINES: of_patches.cos().to(precise), SINES: of_patches.sin().to(precise)}


def turned(qkv: Tensor, cosines: Tensor, sines: Tensor, heads: int, *, halves: bool) -> Tensor:
    """[B, N, 3D] -> same, out of place: autograd and recorded graphs follow it."""
    patches, width = len(cosines), qkv.shape[-1] // 3
    prefix = qkv.shape[1] - patches
    first, second = _pairs(qkv[:, prefix:, : 2 * width], heads, halves=halves)
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    pairs = first * cosines - second * sines, second * cosines + first * sines
    both = torch.cat(pairs, dim=-1) if halves else torch.stack(pairs, dim=-1).flatten(-2)
    of_patches = torch.cat([both.flatten(-2).to(qkv.dtype), qkv[:, prefix:, 2 * width :]], dim=-1)
    return torch.cat([qkv[:, :prefix], of_patches], dim=1) if prefix else of_patches


def turn_(qkv: Tensor, cosines: Tensor, sines: Tensor, heads: int, *, halves: bool) -> Tensor:
    """[B, N, 3D] -> same, in place; for inference. Sums are in at least float32."""
    patches, width = len(cosines), qkv.shape[-1] // 3
    of_patches = qkv[:, qkv.shape[1] - patches :, : 2 * width].unflatten(-1, (2 * heads, -1))
    rows = max(1, _AT_ONCE // (2 * width * patches)) if qkv.is_cpu else len(qkv)
    turn = _turn_halves_ if halves else _turn_neighbours_
    for part in of_patches.split(rows):
        turn(part, cosines.unsqueeze(1), sines.unsqueeze(1))
    return qkv


def _turn_halves_(x: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """x [b, P, 2H, d] in place, whose pairs are i and i + d / 2."""
    narrow = x.chunk(2, dim=-1)
    first, second = (wide(half) for half in narrow)
    turned_first = (first * cosines).addcmul_(second, sines, value=-1)
    turned_second = second.mul_(cosines).addcmul_(first, sines)
    narrow[0].copy_(turned_first)
    if turned_second is not narrow[1]:
        narrow[1].copy_(turned_second)


def _turn_neighbours_(x: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """x [b, P, 2H, d] in place, whose pairs are 2 i and 2 i + 1: one product of complex numbers."""
    exact = wide(x)
    torch.view_as_complex(exact.unflatten(-1, (-1, 2))).mul_(torch.complex(cosines, sines))
    if exact is not x:
        x.copy_(exact)


def turned_for_training(qkv: Tensor, cosines: Tensor, sines: Tensor, heads: int, *, halves: bool) -> Tensor:
    """[B, N, 3D] -> same, with a gradient that keeps nothing: it turns back."""
    return cast("Tensor", _Turned.apply(qkv, cosines, sines, heads, halves))


class _Turned(Function):
    """See `turned_for_training`."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cosines: Tensor, sines: Tensor, heads: int, halves: bool) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.heads, ctx.halves = heads, halves
        return turn_(qkv.clone(), cosines, sines, heads, halves=halves)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        of_qkv = turn_(
            grad.clone(memory_format=torch.contiguous_format), cosines, -sines, ctx.heads, halves=ctx.halves
        )
        return of_qkv, None, None, None, None


def _pairs(both: Tensor, heads: int, *, halves: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys [B, P, 2D] -> first and second numbers of all pairs, each [B, P, 2H, d / 2]."""
    x = both.unflatten(-1, (2 * heads, -1))
    if halves:
        return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x[..., 0::2], x[..., 1::2]
