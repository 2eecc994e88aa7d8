"""Edits as Triton kernels: each row looks its edits up by slot number, and rows without one return at once.

A kernel's grid and arguments depend on the number of rows alone. Which adapter, method, rank or alpha a
row has is data that it reads: `slots` and `alphas` [T, B] (T edit sets at most for each row, -1 for none), a
table [S, F] of where each slot's tensors begin in the bank (`petl_vit.arena`), and the bank itself. So one
captured CUDA graph serves every mixture, as the segmented kernels of arXiv 2310.18547 (Punica) do for LoRA.
Sums are in float32. With TRITON_INTERPRET=1 they run on a CPU, slowly: the tests do that.

The stream is float32 while products may be bfloat16; the factors of every matrix product here are rounded to
`Rows.products` (P in the kernels). Every function writes in place.

Shapes: B rows, N tokens, W width, R rank, H heads, d head width.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
import triton.language as tl
from torch import Tensor

from petl_vit.arena import MAX_HIDDEN, BranchField, Field

_TOKENS = 32  # of one program, as in all below
_COLUMNS = 128
_DEPTH = 64  # of one step of a sum
_SHARED = 1536  # columns of a low-rank product that one program computes from the same bottleneck
_NORMS, _NORM_WARPS = 4, 4  # whole tokens
_PROGRAMS = 1056  # of a kernel over rows that have an edit: eight for each multiprocessor of an H100
_RANKS = 16  # the smallest that a matrix product takes
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


# A site's number must not decide how its kernel is compiled.
_kernel = triton.jit(do_not_specialize=["field", "branch"])


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The slots and alphas of a forward's rows, and the arena that they look up.

    Attributes:
        slots: [T, B], int32; -1 where a row has no (further) edit set.
        alphas: [T, B], float32.
        bank: [E]; table: [S, F], int64, in elements of the bank.
        products: The dtype that factors of matrix products are rounded to.
    """

    slots: Tensor
    alphas: Tensor
    bank: Tensor
    table: Tensor
    products: torch.dtype = torch.float32

    @property
    def terms(self) -> int:
        return self.slots.shape[0]

    @property
    def count(self) -> int:
        return self.slots.shape[1]

    @cached_property
    def lists(self) -> tuple[Tensor, Tensor]:
        """For every field the rows that have it or the next one [F, B], and how many they are [F]; int32."""
        fields = self.table.shape[1]
        members = self.slots.new_empty(fields, self.count)
        counts = self.slots.new_empty(fields)
        _list[(fields,)](
            members, counts, self.table, self.slots, self.count,
            FIELDS=fields, TERMS=self.terms, ROWS=triton.next_power_of_2(self.count),
        )  # fmt: skip
        return members, counts


@triton.jit
def _entry(table, slots, at, field, FIELDS: tl.constexpr):
    """A row's entry of the table in a field, for one term; -1 where the row has no such edit."""
    slot = tl.load(slots + at)
    return tl.load(table + slot.to(tl.int64) * FIELDS + field, mask=slot >= 0, other=-1)


@triton.jit
def _at(bank, place):
    """Where a tensor is in the bank. All begin at multiples of 16, and said so, wide loads are used."""
    return bank + place // 16 * 16


@triton.jit
def _if(offset, length):
    """The length of a tensor at an offset; 0 where the offset is below 0."""
    return tl.where(offset >= 0, length, 0)


@_kernel
def _list(
    members, counts, table, slots, rows,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    field = tl.program_id(0)
    row = tl.arange(0, ROWS)
    here = tl.zeros((ROWS,), dtype=tl.int1)
    for t in tl.static_range(TERMS):
        slot = tl.load(slots + t * rows + row, mask=row < rows, other=-1)
        at = table + slot.to(tl.int64) * FIELDS + field
        here = here | (tl.load(at, mask=slot >= 0, other=-1) >= 0)
        beside = tl.where(field + 1 < FIELDS, slot, -1)
        here = here | (tl.load(at + 1, mask=beside >= 0, other=-1) >= 0)
    one = here.to(tl.int32)
    tl.store(members + field * rows + tl.cumsum(one, 0) - 1, row, mask=here)
    tl.store(counts + field, tl.sum(one, 0))


@_kernel
def _begin(
    patches, sources, around, stream, bank, table, slots, alphas, field, rows, count, tokens, width,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    w = tl.program_id(2) * BW + tl.arange(0, BW)
    inside = (n[:, None] < tokens) & (w[None, :] < width)
    patch = n - (tokens - count)  # below 0: tokens in front
    known = (patch[:, None] >= 0) & inside
    read = patches + tl.load(sources + row).to(tl.int64) * count * width
    frozen = tl.load(read + (patch[:, None] * width + w[None, :]), mask=known, other=0.0).to(tl.float32)
    total = frozen + tl.load(around + (n[:, None] * width + w[None, :]), mask=inside, other=0.0)
    for t in tl.static_range(TERMS):
        scale = _entry(table, slots, t * rows + row, field, FIELDS)
        shift = _entry(table, slots, t * rows + row, field + 1, FIELDS)
        if (scale >= 0) | (shift >= 0):
            alpha = tl.load(alphas + t * rows + row)
            gain = tl.load(_at(bank, scale) + w, mask=w < _if(scale, width), other=1.0).to(tl.float32)
            bias = tl.load(_at(bank, shift) + w, mask=w < _if(shift, width), other=0.0).to(tl.float32)
            total += tl.where(known, alpha * ((gain - 1.0)[None, :] * frozen + bias[None, :]), 0.0)
    where = stream + row.to(tl.int64) * tokens * width + (n[:, None] * width + w[None, :])
    tl.store(where, total.to(stream.dtype.element_ty), mask=inside)


@_kernel
def _affine(
    y, bank, table, slots, alphas, members, counts, field, rows, tokens, width,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(width, BW)
    each = tl.cdiv(tokens, BN) * columns
    for item in range(tl.program_id(0), tl.load(counts + field) * each, tl.num_programs(0)):
        row = tl.load(members + field * rows + item // each)
        n = (item % each) // columns * BN + tl.arange(0, BN)
        w = item % columns * BW + tl.arange(0, BW)
        inside = (n[:, None] < tokens) & (w[None, :] < width)
        where = y + row.to(tl.int64) * tokens * width + (n[:, None] * width + w[None, :])
        frozen = tl.load(where, mask=inside, other=0.0).to(tl.float32)
        total = frozen
        for t in tl.static_range(TERMS):
            scale = _entry(table, slots, t * rows + row, field, FIELDS)
            shift = _entry(table, slots, t * rows + row, field + 1, FIELDS)
            alpha = tl.load(alphas + t * rows + row)
            gain = tl.load(_at(bank, scale) + w, mask=w < _if(scale, width), other=1.0).to(tl.float32)
            bias = tl.load(_at(bank, shift) + w, mask=w < _if(shift, width), other=0.0).to(tl.float32)
            total += alpha * ((gain - 1.0)[None, :] * frozen + bias[None, :])
        tl.store(where, total.to(y.dtype.element_ty), mask=inside)


@_kernel
def _add_norm(
    stream, out, y, frozen_weight, frozen_bias, hidden, convolved, bank, table, slots, alphas,
    branch, field, rows, tokens, width, eps,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, BT: tl.constexpr, BW: tl.constexpr, ROOM: tl.constexpr,
    ADD: tl.constexpr, NORM: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    n = tl.program_id(1) * BT + tl.arange(0, BT)
    w = tl.arange(0, BW)
    inside = (n[:, None] < tokens) & (w[None, :] < width)
    begin = row.to(tl.int64) * tokens * width
    where = n[:, None] * width + w[None, :]
    x = tl.load(stream + begin + where, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(out + begin + where, mask=inside, other=0.0).to(tl.float32)
        for t in tl.static_range(TERMS):
            down = _entry(table, slots, t * rows + row, branch, FIELDS)
            if down >= 0:
                up = _entry(table, slots, t * rows + row, branch + 2, FIELDS)
                bias = _entry(table, slots, t * rows + row, branch + 3, FIELDS)
                conv = _entry(table, slots, t * rows + row, branch + 4, FIELDS)
                rank = _entry(table, slots, t * rows + row, branch + 6, FIELDS).to(tl.int32)
                alpha = tl.load(alphas + t * rows + row)
                bottleneck = hidden
                if conv >= 0:
                    bottleneck = convolved
                bottleneck += (t * rows + row).to(tl.int64) * tokens * ROOM
                delta = tl.zeros((BT, BW), dtype=tl.float32)
                for first in range(0, rank, 4):  # four at a time, so that their loads overlap
                    for part in tl.static_range(4):
                        r = first + part
                        h = tl.load(bottleneck + n * ROOM + r, mask=n < _if(rank - r - 1, tokens), other=0.0)
                        u = tl.load(
                            _at(bank, up) + r * width + w, mask=w < _if(rank - r - 1, width), other=0.0
                        )
                        delta += h.to(tl.float32)[:, None] * u.to(P).to(tl.float32)[None, :]
                constant = tl.load(_at(bank, bias) + w, mask=w < width, other=0.0).to(tl.float32)
                x += alpha * (delta + constant[None, :])
        tl.store(stream + begin + where, x.to(stream.dtype.element_ty), mask=inside)
    if NORM:
        mean = tl.sum(x, axis=1) / width
        centred = tl.where(inside, x - mean[:, None], 0.0)
        variance = tl.sum(centred * centred, axis=1) / width
        normal = centred / tl.sqrt(variance + eps)[:, None]
        gain = tl.load(frozen_weight + w, mask=w < width, other=0.0).to(tl.float32)
        shift = tl.load(frozen_bias + w, mask=w < width, other=0.0).to(tl.float32)
        frozen = normal * gain[None, :] + shift[None, :]
        total = frozen
        for t in tl.static_range(TERMS):
            at = t * rows + row
            scale = _entry(table, slots, at, field, FIELDS)
            offset = _entry(table, slots, at, field + 1, FIELDS)
            weight = _entry(table, slots, at, field + 2, FIELDS)
            if (scale >= 0) | (offset >= 0):
                alpha = tl.load(alphas + at)
                own = tl.load(_at(bank, scale) + w, mask=w < _if(scale, width), other=1.0).to(tl.float32)
                constant = tl.load(_at(bank, offset) + w, mask=w < _if(offset, width), other=0.0).to(
                    tl.float32
                )
                total += alpha * ((own - 1.0)[None, :] * frozen + constant[None, :])
            if weight >= 0:
                bias = _entry(table, slots, at, field + 3, FIELDS)
                alpha = tl.load(alphas + at)
                dw = tl.load(_at(bank, weight) + w, mask=w < width, other=0.0).to(tl.float32)
                db = tl.load(_at(bank, bias) + w, mask=w < width, other=0.0).to(tl.float32)
                total += alpha * (dw[None, :] * normal + db[None, :])
        tl.store(y + begin + where, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _down(
    x, n, tokens, width, matrix, r, rank,
    BN: tl.constexpr, BK: tl.constexpr, RANKS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """[BN, RANKS]: tokens of x [tokens, width] times columns of a projection stored as [rank, width]."""
    hidden = tl.zeros((BN, RANKS), dtype=tl.float32)
    for start in range(0, width, BK):
        k = start + tl.arange(0, BK)
        read = tl.load(
            x + (n[:, None] * width + k[None, :]),
            mask=(n[:, None] < tokens) & (k[None, :] < width),
            other=0.0,
        )
        factor = tl.load(
            matrix + (r[None, :] * width + k[:, None]),
            mask=(r[None, :] < rank) & (k[:, None] < width),
            other=0.0,
        )
        hidden = tl.dot(read.to(P), factor.to(P), hidden, input_precision="ieee")
    return hidden


@_kernel
def _low_rank(
    x, y, bank, table, slots, alphas, members, counts, field, rows, tokens, inside_width, width, columns,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BK: tl.constexpr,
    RANKS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    each = tl.cdiv(tokens, BN) * columns
    for item in range(tl.program_id(0), tl.load(counts + field) * each, tl.num_programs(0)):
        row = tl.load(members + field * rows + item // each)
        n = (item % each) // columns * BN + tl.arange(0, BN)
        x_row = x + row.to(tl.int64) * tokens * inside_width
        y_row = y + row.to(tl.int64) * tokens * width
        for t in tl.static_range(TERMS):
            a = _entry(table, slots, t * rows + row, field, FIELDS)
            if a >= 0:
                b = _entry(table, slots, t * rows + row, field + 1, FIELDS)
                a0 = _entry(table, slots, t * rows + row, field + 2, FIELDS)
                shift = _entry(table, slots, t * rows + row, field + 3, FIELDS)
                rank = _entry(table, slots, t * rows + row, field + 4, FIELDS).to(tl.int32)
                # Of the bottleneck and of y (FacT).
                parts = _entry(table, slots, t * rows + row, field + 5, FIELDS).to(tl.int32)
                alpha = tl.load(alphas + t * rows + row)
                part_width = (
                    width // parts // 16 * 16
                )  # a multiple of the backbone's width, as `Layout` sees to
                for part in range(0, parts):
                    begin = part * part_width
                    for first in range(0, rank, RANKS):
                        r = first + tl.arange(0, RANKS)
                        at = _at(bank, a) + part * rank * inside_width
                        hidden = _down(x_row, n, tokens, inside_width, at, r, rank, BN, BK, RANKS, P)
                        offset = tl.load(_at(bank, a0) + part * rank + r, mask=r < _if(a0, rank), other=0.0)
                        hidden = ((hidden + offset.to(tl.float32)[None, :]) * alpha).to(P)
                        for start in range(item % columns * BW, part_width, columns * BW):
                            w = start + tl.arange(0, BW)
                            within = (n[:, None] < tokens) & (w[None, :] < part_width)
                            where = y_row + (n[:, None] * width + begin + w[None, :])
                            matrix = tl.load(
                                _at(bank, b) + (r[:, None] * part_width + w[None, :]),
                                mask=(r[:, None] < rank) & (w[None, :] < part_width),
                                other=0.0,
                            )
                            total = tl.load(where, mask=within, other=0.0).to(tl.float32)
                            total = tl.dot(hidden, matrix.to(P), total, input_precision="ieee")
                            if first == 0:
                                at_w = _at(bank, shift) + begin + w
                                constant = tl.load(at_w, mask=w < _if(shift, part_width), other=0.0)
                                total += (alpha * constant.to(tl.float32))[None, :]
                            tl.store(where, total.to(y.dtype.element_ty), mask=within)


@triton.jit
def _activate(h, kind):
    """relu, gelu or quick_gelu, by number."""
    gelu = 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
    quick = h / (1.0 + tl.exp(-1.702 * h))
    return tl.where(kind == 0, tl.maximum(h, 0.0), tl.where(kind == 1, gelu, quick))


@_kernel
def _hide(
    stream, normed, out, hidden, bank, table, slots, members, counts, field, rows, tokens, width,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, RANKS: tl.constexpr,
    ROOM: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    each = tl.cdiv(tokens, BN)
    for item in range(tl.program_id(0), tl.load(counts + field) * each, tl.num_programs(0)):
        row = tl.load(members + field * rows + item // each)
        n = item % each * BN + tl.arange(0, BN)
        begin = row.to(tl.int64) * tokens * width
        for t in tl.static_range(TERMS):
            down = _entry(table, slots, t * rows + row, field, FIELDS)
            if down >= 0:
                bias = _entry(table, slots, t * rows + row, field + 1, FIELDS)
                rank = _entry(table, slots, t * rows + row, field + 6, FIELDS).to(tl.int32)
                source = _entry(table, slots, t * rows + row, field + 7, FIELDS)
                kind = _entry(table, slots, t * rows + row, field + 8, FIELDS)
                hidden_row = hidden + (t * rows + row).to(tl.int64) * tokens * ROOM
                for first in range(0, rank, RANKS):
                    r = first + tl.arange(0, RANKS)
                    # Branches, and not a pointer: the output's dtype may not be the stream's.
                    h, at = tl.zeros((BN, RANKS), dtype=tl.float32), _at(bank, down)
                    if source == 0:
                        h = _down(stream + begin, n, tokens, width, at, r, rank, BN, BK, RANKS, P)
                    elif source == 1:
                        h = _down(normed + begin, n, tokens, width, at, r, rank, BN, BK, RANKS, P)
                    else:
                        h = _down(out + begin, n, tokens, width, at, r, rank, BN, BK, RANKS, P)
                    offset = tl.load(_at(bank, bias) + r, mask=r < rank, other=0.0).to(tl.float32)
                    h = _activate(h + offset[None, :], kind)
                    where = hidden_row + (n[:, None] * ROOM + r[None, :])
                    tl.store(
                        where, h.to(hidden.dtype.element_ty), mask=(n[:, None] < tokens) & (r[None, :] < rank)
                    )


@_kernel
def _convolve(
    hidden, convolved, bank, table, slots, members, counts, field, rows, tokens, patches, grid,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, BN: tl.constexpr, RANKS: tl.constexpr, ROOM: tl.constexpr,
    P: tl.constexpr,
):  # fmt: skip
    each = tl.cdiv(tokens, BN)
    for item in range(tl.program_id(0), tl.load(counts + field) * each, tl.num_programs(0)):
        row = tl.load(members + field * rows + item // each)
        n = item % each * BN + tl.arange(0, BN)
        patch = n - (tokens - patches)  # below 0: a class or register token, a single pixel
        i, j = patch // grid, patch % grid
        for t in tl.static_range(TERMS):
            conv = _entry(table, slots, t * rows + row, field, FIELDS)
            if conv >= 0:
                bias = _entry(table, slots, t * rows + row, field + 1, FIELDS)
                rank = _entry(table, slots, t * rows + row, field + 2, FIELDS).to(tl.int32)
                kind = _entry(table, slots, t * rows + row, field + 4, FIELDS)
                begin = (t * rows + row).to(tl.int64) * tokens * ROOM
                for first in range(0, rank, RANKS):
                    to = first + tl.arange(0, RANKS)
                    total = tl.zeros((BN, RANKS), dtype=tl.float32)
                    for start in range(0, rank, RANKS):
                        r = start + tl.arange(0, RANKS)
                        for tap in range(0, 9):
                            di, dj = tap // 3 - 1, tap % 3 - 1
                            near = (patch >= 0) & (i + di >= 0) & (i + di < grid)
                            near = near & (j + dj >= 0) & (j + dj < grid)
                            near = (near | (patch < tl.where(tap == 4, 0, -tokens))) & (n < tokens)
                            read = tl.load(
                                hidden + begin + ((n + di * grid + dj)[:, None] * ROOM + r[None, :]),
                                mask=near[:, None] & (r[None, :] < rank),
                                other=0.0,
                            )
                            matrix = tl.load(
                                _at(bank, conv) + ((to[None, :] * rank + r[:, None]) * 9 + tap),
                                mask=(r[:, None] < rank) & (to[None, :] < rank),
                                other=0.0,
                            )
                            total = tl.dot(read.to(P), matrix.to(P), total, input_precision="ieee")
                    offset = tl.load(_at(bank, bias) + to, mask=to < rank, other=0.0).to(tl.float32)
                    h = _activate(total + offset[None, :], kind)
                    where = convolved + begin + (n[:, None] * ROOM + to[None, :])
                    tl.store(
                        where,
                        h.to(convolved.dtype.element_ty),
                        mask=(n[:, None] < tokens) & (to[None, :] < rank),
                    )


@_kernel
def _attend_prefix(
    qkv, out, lse, bank, table, slots, alphas, members, counts, field, rows, tokens, heads, lse_stride, scale,
    FIELDS: tl.constexpr, TERMS: tl.constexpr, BN: tl.constexpr, KEYS: tl.constexpr,
    d: tl.constexpr, BD: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    each = tl.cdiv(tokens, BN) * heads
    for item in range(tl.program_id(0), tl.load(counts + field) * each, tl.num_programs(0)):
        row = tl.load(members + field * rows + item // each)
        head = item % heads
        n = (item % each) // heads * BN + tl.arange(0, BN)
        c = tl.arange(0, BD)
        within = (n[:, None] < tokens) & (c[None, :] < d)
        read = qkv + row.to(tl.int64) * tokens * (3 * heads * d) + head * d
        q = tl.load(read + (n[:, None] * (3 * heads * d) + c[None, :]), mask=within, other=0.0).to(P)
        where = out + row.to(tl.int64) * tokens * (heads * d) + head * d
        where += n[:, None] * (heads * d) + c[None, :]
        top = tl.load(
            lse + (row.to(tl.int64) * heads + head) * lse_stride + n, mask=n < tokens, other=0.0
        ).to(tl.float32)
        weight = tl.full((BN,), 1.0, tl.float32)  # of the values in `total`, relative to exp(top)
        total = tl.load(where, mask=within, other=0.0).to(tl.float32)
        for t in tl.static_range(TERMS):
            keys = _entry(table, slots, t * rows + row, field, FIELDS)
            if keys >= 0:
                values = _entry(table, slots, t * rows + row, field + 1, FIELDS)
                count = _entry(table, slots, t * rows + row, field + 2, FIELDS).to(tl.int32)
                alpha = tl.load(alphas + t * rows + row)
                for first in range(0, count, KEYS):
                    p = first + tl.arange(0, KEYS)
                    at = (head * count + p)[:, None] * d + c[None, :]
                    known = (p[:, None] < count) & (c[None, :] < d)
                    k = tl.load(_at(bank, keys) + at, mask=known, other=0.0).to(P)
                    v = tl.load(_at(bank, values) + at, mask=known, other=0.0).to(P)
                    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
                    present = p[None, :] < tl.where(alpha > 0.0, count, 0)
                    # The smallest alpha is a normal float32: a smaller literal would be a float64 to Triton.
                    score = tl.where(present, score + tl.log(tl.maximum(alpha, 1e-37)), float("-inf"))
                    higher = tl.maximum(top, tl.max(score, axis=1))
                    shrink = tl.exp(top - higher)
                    share = tl.exp(score - higher[:, None])
                    weight = weight * shrink + tl.sum(share, axis=1)
                    total = total * shrink[:, None] + tl.dot(share.to(P), v, input_precision="ieee")
                    top = higher
        tl.store(where, (total / weight[:, None]).to(out.dtype.element_ty), mask=within)


def _programs(rows: Rows, parts: int) -> tuple[int]:
    """Programs that share the parts of the rows that have an edit, however many those are."""
    return (max(1, min(rows.count * parts, _PROGRAMS)),)


def begin(patches: Tensor, sources: Tensor, around: Tensor, rows: Rows, field: int) -> Tensor:
    """The stream [B, n + N, W] of rows: their images' patches [U, N, W] with their edits, and embeddings.

    Args:
        sources: [B], each row's image.
        around: [n + N, W], what is added to the patches, and the tokens in front of them.
    """
    count, (tokens, w) = patches.shape[1], around.shape
    stream = around.new_empty(rows.count, tokens, w)
    _begin[(rows.count, triton.cdiv(tokens, _TOKENS), triton.cdiv(w, _COLUMNS))](
        patches, sources, around, stream, rows.bank, rows.table, rows.slots, rows.alphas,
        field + Field.SCALE, rows.count, count, tokens, w,
        FIELDS=rows.table.shape[1], TERMS=rows.terms, BN=_TOKENS, BW=_COLUMNS,
    )  # fmt: skip
    return stream


def affine_(y: Tensor, rows: Rows, field: int) -> None:
    """y [B, N, W] += alpha ((scale - 1) y + shift)."""
    b, n, w = y.shape
    parts = triton.cdiv(n, _TOKENS) * triton.cdiv(w, _COLUMNS)
    _affine[_programs(rows, parts)](
        y, rows.bank, rows.table, rows.slots, rows.alphas, *rows.lists, field + Field.SCALE, b, n, w,
        FIELDS=rows.table.shape[1], TERMS=rows.terms, BN=_TOKENS, BW=_COLUMNS,
    )  # fmt: skip


def low_rank_(x: Tensor, y: Tensor, rows: Rows, field: int) -> None:
    """y [B, N, W] += alpha ((x A + a_0) B + shift), x [B, N, in]."""
    b, n, w = y.shape
    columns = triton.cdiv(w, _SHARED)
    _low_rank[_programs(rows, triton.cdiv(n, _TOKENS) * columns)](
        x, y, rows.bank, rows.table, rows.slots, rows.alphas, *rows.lists, field + Field.A, b, n, x.shape[-1],
        w, columns, FIELDS=rows.table.shape[1], TERMS=rows.terms, BN=_TOKENS, BW=_COLUMNS, BK=_DEPTH,
        RANKS=_RANKS, P=_TYPES[rows.products],
    )  # fmt: skip


def hidden(
    stream: Tensor, normed: Tensor, out: Tensor, rows: Rows, field: int, grid: int
) -> tuple[Tensor, Tensor]:
    """The branches' bottlenecks [T, B, N, 64] of tokens [B, N, W]; without and with their convolutions.

    Only the elements that `add_norm_` reads are written.

    Args:
        grid: Patches along a side; fewer tokens than patches are all single pixels.
    """
    b, n, w = out.shape
    shape, dtype = (rows.terms, b, n, MAX_HIDDEN), rows.products
    before, after = (out.new_empty(shape, dtype=dtype) for _ in range(2))
    programs, fields = _programs(rows, triton.cdiv(n, _TOKENS)), rows.table.shape[1]
    _hide[programs](
        stream, normed, out, before, rows.bank, rows.table, rows.slots, *rows.lists,
        field + BranchField.DOWN, b, n, w,
        FIELDS=fields, TERMS=rows.terms, BN=_TOKENS, BK=_DEPTH, RANKS=_RANKS, ROOM=MAX_HIDDEN,
        P=_TYPES[rows.products],
    )  # fmt: skip
    _convolve[programs](
        before, after, rows.bank, rows.table, rows.slots, *rows.lists, field + BranchField.CONV, b, n,
        grid**2 if n >= grid**2 else 0, grid,
        FIELDS=fields, TERMS=rows.terms, BN=_TOKENS, RANKS=_RANKS, ROOM=MAX_HIDDEN, P=_TYPES[rows.products],
    )  # fmt: skip
    return before, after


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What a sublayer adds to the stream.

    Attributes:
        out: [B, N, W], its output; bottlenecks: Of its branches, as `hidden` returns them.
        field: The first of its branches' fields.
    """

    out: Tensor
    bottlenecks: tuple[Tensor, Tensor]
    field: int


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A LayerNorm and where its edits are.

    Attributes:
        weight, bias: [W]; field: The first of its fields.
    """

    weight: Tensor
    bias: Tensor
    eps: float
    field: int


def add_norm_(
    stream: Tensor, rows: Rows, *, added: Addition | None, norm: Norm | None, dtype: torch.dtype
) -> Tensor:
    """stream [B, N, W] += out + alpha (h W_u + b_u) of every branch; and [B, N, W] of it after a norm.

    One pass over the stream: each program has whole tokens. Without a norm it returns the stream.

    Args:
        dtype: Of what comes after the norm.
    """
    b, n, w = stream.shape
    y = stream if norm is None else torch.empty_like(stream, dtype=dtype)
    out, bottlenecks, branch = (
        (stream, (stream, stream), 0) if added is None else (added.out, added.bottlenecks, added.field)
    )
    weight, bias, eps, field = (
        (stream, stream, 0.0, 0) if norm is None else (norm.weight, norm.bias, norm.eps, norm.field)
    )
    _add_norm[(b, triton.cdiv(n, _NORMS))](
        stream, out, y, weight, bias, *bottlenecks, rows.bank, rows.table, rows.slots, rows.alphas,
        branch, field, b, n, w, eps,
        FIELDS=rows.table.shape[1], TERMS=rows.terms, BT=_NORMS, BW=triton.next_power_of_2(w),
        ROOM=MAX_HIDDEN, ADD=added is not None, NORM=norm is not None, P=_TYPES[rows.products],
        num_warps=_NORM_WARPS,
    )  # fmt: skip
    return y


def attend_prefix_(qkv: Tensor, out: Tensor, lse: Tensor, rows: Rows, field: int, heads: int) -> None:
    """Adds attention to further keys and values to attention that was computed without them.

    Two softmaxes merge exactly by the logarithms of their sums (arXiv 2205.14135, 2402.05099).

    Args:
        qkv: [B, N, 3 H d]; out: [B, N, H d], contiguous.
        lse: [B, H, at least N], the logarithm of each softmax's sum; its last dimension contiguous.
    """
    b, n, width = out.shape
    d = width // heads
    assert lse.is_contiguous(), "rows of the sums follow each other"
    _attend_prefix[_programs(rows, triton.cdiv(n, _TOKENS) * heads)](
        qkv, out, lse, rows.bank, rows.table, rows.slots, rows.alphas, *rows.lists, field, b, n, heads,
        lse.shape[-1], d**-0.5, FIELDS=rows.table.shape[1], TERMS=rows.terms, BN=_TOKENS, KEYS=_RANKS,
        d=d, BD=triton.next_power_of_2(d), P=_TYPES[rows.products],
    )  # fmt: skip


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU."""
    return bool(triton.knobs.runtime.interpret)


def usable(device: torch.device) -> bool:
    """Whether the kernels run there."""
    return device.type == "cuda" or interpreted()
