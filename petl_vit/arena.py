"""Adapters in device memory: their vectors in one tensor, the bank, and a table of where each edit is.

Both have a fixed size and address, so that a captured CUDA graph can read them. An adapter takes a contiguous
run of the bank (first fit) and one row of the table, its *slot*. Adapters with edits that the kernels do not
compute (full, selective, IA3, VPT-Shallow, VQT, very wide bottlenecks) take a run of the bank alone.

Shapes: E elements of the bank, S slots, F fields of a table's row.
"""

from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.architecture import Architecture, quick_gelu
from petl_vit.branch import Branch, Source
from petl_vit.edit_set import NO_FORM, EditSet
from petl_vit.edits import Affine, Edit, LowRank, NormDelta
from petl_vit.errors import InvalidInput
from petl_vit.prompts import Prefix

MAX_HIDDEN = 64
"""The widest bottleneck of a branch that the kernels compute."""

_NONE = -1
_ALIGNED = 16  # elements, as the tensors in a flat vector are


class Field(IntEnum):
    """The table's columns for a site: offsets into the bank, -1 where an edit is absent, and a rank."""

    SCALE, SHIFT, WEIGHT, BIAS, A, B, A0, LOW_SHIFT, RANK, PARTS = range(10)


class BranchField(IntEnum):
    """The columns for a sublayer; `SOURCE` and `ACTIVATION` are the numbers of a source and a function."""

    DOWN, DOWN_BIAS, UP, UP_BIAS, CONV, CONV_BIAS, RANK, SOURCE, ACTIVATION = range(9)


class PrefixField(IntEnum):
    """The columns for a block's added keys and values, and their count."""

    KEYS, VALUES, COUNT = range(3)


_NUMBERS = {
    (Field, Field.RANK),
    (Field, Field.PARTS),
    *((BranchField, f) for f in (6, 7, 8)),
    (PrefixField, PrefixField.COUNT),
}
_SOURCES = [Source.STREAM, Source.NORMED, Source.OUTPUT]
_ACTIVATIONS = [F.relu, F.gelu, quick_gelu]


class Layout:
    """The fields of a row of the table: some for every site, sublayer and block of an architecture."""

    def __init__(self, arch: Architecture) -> None:
        linears = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        sites = ["patch_embed.proj", *arch.norms]
        sites += [f"blocks.{block}.{linear}" for block in range(arch.depth) for linear in linears]
        groups: list[tuple[str, type[IntEnum]]] = [(site, Field) for site in sites]
        for block in range(arch.depth):
            groups += [(f"blocks.{block}.attn", BranchField), (f"blocks.{block}.mlp", BranchField)]
            groups.append((f"blocks.{block}", PrefixField))
        self.first: dict[str, int] = {}
        numbers: list[bool] = []
        for name, fields in groups:
            self.first[name] = len(numbers)
            numbers += [(fields, field) in _NUMBERS for field in fields]
        widths = (arch.width, arch.fc1_width)  # the kernels read columns by sixteens
        self._narrow = any(width % _ALIGNED for width in widths)
        self.is_offset = ~torch.tensor(numbers)

    @property
    def fields(self) -> int:
        return len(self.is_offset)

    def column(self, edits: EditSet) -> Tensor | None:
        """[F], offsets from the start of the flat vector; None where the kernels do not compute an edit."""
        if self._narrow or edits.form == NO_FORM or not all(_is_computed(edit) for edit in edits.edits):
            return None
        column = torch.full((self.fields,), _NONE, dtype=torch.int64)
        for place, value in self._values(edits):
            if column[place] != _NONE:  # two edits of a kind at one place
                return None
            column[place] = value
        return column

    def _values(self, edits: EditSet) -> Iterator[tuple[int, int]]:
        """The places of the edits in a row of the table, with their values."""
        start = edits.flat.storage_offset()
        for edit in edits.edits:
            tensors, numbers = _fields(edit, edits)
            first = self.first[_group(edit)]
            for field, tensor in tensors.items():
                if tensor is not None:
                    yield first + field, int(tensor.storage_offset()) - int(start)
            yield from ((first + field, value) for field, value in numbers.items())


def _is_computed(edit: Edit) -> bool:
    """Whether the kernels compute an edit."""
    match edit:
        case Branch():
            narrow = edit.up.shape[-2] <= MAX_HIDDEN
            return narrow and edit.scale == 1 and edit.activation in _ACTIVATIONS
        case Prefix():
            return edit.weight == 1
    return isinstance(edit, Affine | NormDelta | LowRank)


def _group(edit: Edit) -> str:
    """The site, sublayer or block whose fields an edit fills."""
    match edit:
        case Branch():
            return edit.sublayer
        case Prefix():
            return f"blocks.{edit.block}"
        case Affine() | NormDelta() | LowRank():
            return edit.site
    raise AssertionError(edit)


def _fields(edit: Edit, edits: EditSet) -> tuple[Mapping[Any, Tensor | None], Mapping[Any, int]]:
    """An edit's tensors and numbers by field."""
    match edit:
        case Affine():
            return {Field.SCALE: edit.scale, Field.SHIFT: edit.shift}, {}
        case NormDelta():
            return {Field.WEIGHT: edit.weight, Field.BIAS: edit.bias}, {}
        case LowRank():
            tensors = {Field.A: edit.a, Field.B: edit.b, Field.A0: edit.a0, Field.LOW_SHIFT: edit.shift}
            rank = edit.b.shape[-2]
            return tensors, {Field.RANK: rank, Field.PARTS: edit.a.shape[-1] // rank}
        case Branch():
            conv = edit.conv
            return {
                BranchField.DOWN: edit.down,
                BranchField.DOWN_BIAS: edit.down_bias,
                BranchField.UP: edit.up,
                BranchField.UP_BIAS: edit.up_bias,
                BranchField.CONV: None if conv is None else conv.weight,
                BranchField.CONV_BIAS: None if conv is None else conv.bias,
            }, {
                BranchField.RANK: edit.up.shape[-2],
                BranchField.SOURCE: _SOURCES.index(edit.source),
                BranchField.ACTIVATION: _ACTIVATIONS.index(edit.activation),
            }
        case Prefix():
            (keys, values), *_ = edits.keys_values[edit.block]
            return {PrefixField.KEYS: keys, PrefixField.VALUES: values}, {PrefixField.COUNT: keys.shape[-2]}
    raise AssertionError(edit)


class Arena:
    """The bank and the table of one backbone's adapters. One thread's stream does all writes to them.

    Args:
        arch: The backbone's architecture, of any image size.
        nbytes: The bytes of the bank and the table together.
        slots: The most adapters.
        dtype: The adapters' dtype, which is that of the residual stream.

    Raises:
        InvalidInput: The table alone takes more than `nbytes`.
    """

    def __init__(
        self,
        arch: Architecture,
        *,
        nbytes: int,
        slots: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.layout = Layout(arch)
        self.table = torch.full((slots, self.layout.fields), _NONE, dtype=torch.int64, device=device)
        elements = (nbytes - self.table.nbytes) // dtype.itemsize
        if elements <= 0:
            raise InvalidInput(
                f"a table for {slots} slots takes {self.table.nbytes:,} bytes of {nbytes:,}",
                field="device_bytes",
                remedy="start with a larger --device-bytes or fewer --slots",
            )
        self.bank = torch.zeros(elements, dtype=dtype, device=device)
        self._gaps = [Extent(0, elements)]
        self._free = list(reversed(range(slots)))

    @property
    def nbytes(self) -> int:
        """Device memory of the arena, which is the same full or empty."""
        return self.bank.nbytes + self.table.nbytes

    def place(self, edits: EditSet) -> "Placed | None":
        """Copies an adapter's edits in; None where no slot, or no gap that is large enough, is free."""
        column = self.layout.column(edits)
        tensors = {id(t): t for t in ([edits.flat] if column is not None else edits.all_tensors())}
        starts, length = {}, 0
        for key, tensor in tensors.items():
            starts[key] = length
            length += -(-tensor.numel() // _ALIGNED) * _ALIGNED
        extent = self._reserve(length) if self._free or column is None else None
        if extent is None:
            return None

        nbytes = extent.length * self.bank.itemsize

        def moved(tensor: Tensor) -> Tensor:
            start = extent.start + starts[id(tensor)]
            view = self.bank[start : start + tensor.numel()].view(tensor.shape)
            return view.copy_(tensor, non_blocking=True)

        if column is None:
            return Placed(extent=extent, edits=edits.mapped(moved), slot=_NONE, nbytes=nbytes)
        slot = self._free.pop()
        offsets = self.layout.is_offset & (column != _NONE)
        self.table[slot].copy_(torch.where(offsets, column + extent.start, column))
        return Placed(extent=extent, edits=edits.at(moved(edits.flat)), slot=slot, nbytes=nbytes)

    def give_back(self, placed: "Placed") -> None:
        """Frees an adapter's run and slot; the contents stay until they are overwritten."""
        if placed.slot != _NONE:
            self._free.append(placed.slot)
        insort(self._gaps, placed.extent)
        merged: list[Extent] = []
        for start, length in self._gaps:
            if merged and merged[-1].start + merged[-1].length == start:
                merged[-1] = Extent(merged[-1].start, merged[-1].length + length)
            else:
                merged.append(Extent(start, length))
        self._gaps = merged

    def _reserve(self, length: int) -> "Extent | None":
        gap = next((gap for gap in self._gaps if gap.length >= length), None)
        if gap is None:
            return None
        self._gaps.remove(gap)
        if gap.length > length:
            insort(self._gaps, Extent(gap.start + length, gap.length - length))
        return Extent(gap.start, length)


class Extent(NamedTuple):
    """A run of the bank's elements."""

    start: int
    length: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Placed:
    """An adapter in the bank.

    Attributes:
        edits: With tensors that are views of the bank.
        slot: Its row of the table; -1 where the kernels do not compute its edits.
    """

    extent: Extent
    edits: EditSet
    slot: int
    nbytes: int
