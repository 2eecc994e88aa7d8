"""A third way to carry the edits out: every row looks its own up in a bank, by number.

No slice, no loop and no shape depends on which rows have which adapter: that is data, two numbers for each
row and lane. So one recorded forward (an ONNX graph, a CUDA graph) serves every mixture of the adapters in
the banks. The price is that every row computes every lane, and those without an edit there add zero;
`petl_vit.executors.sliced.Sliced` computes for each row only what it has.

Knows stacking edits (`petl_vit.edit_set`). Those that stack with nothing (`Dense`, `Tokens`, `Queries`) are
not for it.

Shapes: B rows, N tokens, D width, S slots, L elements of a form's flat vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl_vit.edit_set import NO_FORM, EditSet
from petl_vit.edits import attend, weighted
from petl_vit.executors.frozen import frozen_norm, merge_heads, split_heads
from petl_vit.products import Params, linear
from petl_vit.vit import FrozenViT


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """At most one edit set of a form for each row. A second one of the same form is a lookup of its own.

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


class Gathered:
    """Many adapters at once, each row's own gathered from banks; out of place, without dropout.

    Args:
        vit: The backbone.
        lookups: What edits the rows. All read the frozen operations and are summed, so their order is free.
        params: The parameters to run with; None means the backbone's own.
    """

    def __init__(self, vit: FrozenViT, lookups: Sequence[Lookup], params: Params | None = None) -> None:
        assert all(lookup.form.form != NO_FORM for lookup in lookups), "edits that do not stack"
        self._arch = vit.arch
        self.params: Params = vit.params if params is None else params
        self._lanes = [(_of_rows(lookup), lookup.alphas.view(-1, 1, 1)) for lookup in lookups]

    def over(self, names: Sequence[str], compute: Callable[[Tensor, Params], Tensor], x: Tensor) -> Tensor:
        return compute(x, self.params)

    def embed(self, patches: Tensor) -> Tensor:
        return self._edited("patch_embed.proj", patches, patches)

    def linear(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, linear(self.params, site, x))

    def norm(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, frozen_norm(self.params, site, x, self._arch.eps))

    def _edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        deltas = [
            edit.delta(x, y, alpha) for edits, alpha in self._lanes for edit in edits.sites.get(site, ())
        ]
        return sum(deltas, start=y)

    def extend(self, x: Tensor) -> Tensor:
        return x

    def strip(self, x: Tensor) -> Tensor:
        return x

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self._arch.heads)
        prefixes = [
            (keys, values, weighted(alpha, prefix.weight, keys))
            for edits, alpha in self._lanes
            for prefix, (keys, values) in zip(
                edits.prefixes.get(block, ()), edits.keys_values.get(block, ()), strict=True
            )
        ]
        return merge_heads(attend(q, k, v, prefixes))

    def activate(self, h: Tensor) -> Tensor:
        return self._arch.activation(h)

    def feature(self, feature: Tensor) -> Tensor:
        return feature

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        deltas = [
            branch.delta(stream, normed, out, alpha)
            for edits, alpha in self._lanes
            for branch in edits.branches.get(sublayer, ())
        ]
        return sum(deltas, start=stream + out)


def _of_rows(lookup: Lookup) -> EditSet:
    """The edit set with tensors of each row, zero where it has no edit.

    Zero and not only unused: of another's adapter, alpha 0 would make NaN where its edits overflow.
    """
    flats = lookup.bank.index_select(0, lookup.slots)
    return lookup.form.with_rows(torch.where(lookup.alphas.unsqueeze(1) != 0, flats, torch.zeros_like(flats)))
