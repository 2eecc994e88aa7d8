"""Many adapters' edits, looked up by number in a bank of adapters: for forwards that are recorded once.

No slice, loop or shape depends on which row has which adapter: that is data, a slot and an alpha for each row
and lookup. So one recorded forward (an ONNX graph) serves every mixture of the adapters in the banks. The
price is that every row computes every lookup, and adds zero where it has no edit; `Sliced` computes for each
row its own edits alone.

Takes edits that stack (`petl_vit.edit_set`); `Dense`, `Tokens` and `Queries` do not.

Shapes: B rows, N tokens, D width, S slots, L elements of a form's flat vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl_vit.attention import attend, merge_heads, split_heads
from petl_vit.edit_set import NO_FORM, EditSet
from petl_vit.executor import Executor
from petl_vit.per_row import weighted
from petl_vit.products import Params
from petl_vit.vit import FrozenViT


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """At most one edit set of a form for each row. Rows with two of one form need two lookups.

    Attributes:
        form: Any packed edit set of the form; its tensors are not read.
        bank: [S, L], flat vectors of the form.
        slots: [B], int64: each row's place in the bank.
        alphas: [B]; at 0 the row has no edit here, whatever its slot holds.
    """

    form: EditSet
    bank: Tensor
    slots: Tensor
    alphas: Tensor


class Gathered(Executor):
    """Many adapters at once, gathered from banks for each row; out of place, without dropout.

    Args:
        vit: The backbone.
        lookups: The rows' edits, in any order: all read the frozen operations and are summed.
        params: The parameters to run with; None means the backbone's.
    """

    def __init__(self, vit: FrozenViT, lookups: Sequence[Lookup], params: Params | None = None) -> None:
        assert all(lookup.form.form != NO_FORM for lookup in lookups), "edits that do not stack"
        self.arch = vit.arch
        self.params = vit.params if params is None else params
        self._edit_sets = [
            (_of_rows(lookup).over(self.params), lookup.alphas.view(-1, 1, 1)) for lookup in lookups
        ]

    def edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        deltas = [
            edit.delta(x, y, alpha) for edits, alpha in self._edit_sets for edit in edits.sites.get(site, ())
        ]
        return sum(deltas, start=y)

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.arch.heads)
        prefixes = [
            (keys, values, weighted(alpha, prefix.weight, keys))
            for edits, alpha in self._edit_sets
            for prefix, (keys, values) in zip(
                edits.prefixes.get(block, ()), edits.keys_values.get(block, ()), strict=True
            )
        ]
        return merge_heads(attend(q, k, v, prefixes))

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        deltas = [
            branch.delta(stream, normed, out, alpha)
            for edits, alpha in self._edit_sets
            for branch in edits.branches.get(sublayer, ())
        ]
        return sum(deltas, start=stream + out)


def _of_rows(lookup: Lookup) -> EditSet:
    """The edit set with tensors for each row, zero where the row has no edit.

    Zero, as alpha 0 times what is in the slot would be NaN where that adapter's edits overflow.
    """
    flats = lookup.bank.index_select(0, lookup.slots)
    return lookup.form.with_rows(torch.where(lookup.alphas.unsqueeze(1) != 0, flats, torch.zeros_like(flats)))
