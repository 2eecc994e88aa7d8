"""The executor of training: one adapter, or several whose frozen operations run once over all their rows.

`Joint` does to each adapter's rows what a `Functional` for them alone would do, with gradients and random
numbers. It keeps less for the backward pass and passes over the activations less often, as the gradients of
operations are written by hand (`petl_vit.executors.gradients`); nothing before the first edit has any. Edits
that make rows longer, replace parameters or read a block's keys cannot share a forward, and are refused by
name where there are several adapters.

Shapes: B rows of all adapters, N tokens, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.attention import in_front, split_heads
from petl_vit.branch import Source
from petl_vit.edit_set import EditSet
from petl_vit.edits import Affine, AtSite, Dense, Edit, Input, LowRank, fold
from petl_vit.errors import Unsupported
from petl_vit.executor import Executor, frozen_norm
from petl_vit.executors.attention_gradients import attention, self_attention
from petl_vit.executors.functional import Functional
from petl_vit.executors.gradients import Edited, Joined, edited_linear, joined
from petl_vit.methods.method import Method, edit_kinds
from petl_vit.noise import Noise, dropped
from petl_vit.products import linear
from petl_vit.prompts import Queries, Tokens
from petl_vit.rotary import turned_for_training
from petl_vit.vit import FrozenViT

_CANNOT_SHARE: dict[type, str] = {
    Tokens: "it carries tokens along",
    Dense: "it replaces parameters",
    Queries: "it joins queries to the feature",
}


def check_joins(method: type[Method]) -> None:
    """Refuses a method whose adapters cannot learn in one forward with others.

    Raises:
        Unsupported: Says why.
    """
    kinds = edit_kinds(method())
    for kind, why in _CANNOT_SHARE.items():
        if kind.__name__ in kinds:
            raise Unsupported(
                f"{method.title} cannot share a forward: {why}", field="method", remedy="train it alone"
            )


@dataclass(frozen=True, kw_only=True)
class Learner:
    """One adapter's part in a forward.

    Attributes:
        rows: How many of the batch's rows it has.
        drop_path: As `Functional` has it.
        noise: The random numbers of its dropout and drop path; None without both.
    """

    rows: int
    edits: Sequence[Edit]
    drop_path: float
    noise: Noise | None


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A learner's rows, its edits by where they act, and the executor that it would have alone."""

    rows: slice
    edits: EditSet
    noise: Noise | None
    alone: Functional


class Joint(Executor):
    """The edits of one adapter or several, each on its own rows, which lie in the order of `learners`.

    Args:
        vit: The backbone.
        learners: Together they have all rows of the batch.
    """

    def __init__(self, vit: FrozenViT, learners: Sequence[Learner]) -> None:
        self.arch, self.params = vit.arch, vit.params
        self._parts, done = list[_Part](), 0
        for learner in learners:
            alone = Functional(vit, learner.edits, noise=learner.noise, drop_path=learner.drop_path)
            rows = slice(done, done := done + learner.rows)
            self._parts.append(_Part(rows=rows, edits=alone.edits, noise=learner.noise, alone=alone))
        self._alone = self._parts[0].alone if len(learners) == 1 else None
        if self._alone is not None:
            self.params = self._alone.params  # with those that it replaces
        else:
            of_all = [part.edits for part in self._parts]
            refused = [edit for own in of_all for edit in (*own.dense, *own.tokens, *own.queries)]
            assert not refused, "check_joins refuses these"

    def linear(self, site: str, x: Tensor) -> Tensor:
        found = [part.edits.sites.get(site, ()) for part in self._parts]
        if not all(_by_hand(edits) or _scales_input(edits) for edits in found):
            return self.edited(site, x, linear(self.params, site, x))
        if any(_scales_input(edits) for edits in found):
            rows = zip(found, self._by_part(x), strict=True)
            x = torch.cat([_scaled(edits, of_part) for edits, (_, (of_part,)) in rows])
        parts = [
            Edited(rows=part.rows, edit=edit, noise=part.noise)
            for part, edits in zip(self._parts, found, strict=True)
            for edit in edits
            if isinstance(edit, Affine | LowRank)
        ]
        if not parts:
            return linear(self.params, site, x)
        weight, bias = self.params[f"{site}.weight"], self.params.get(f"{site}.bias")
        return edited_linear(x, weight, bias, parts)

    def edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        if self._alone is not None:
            return self._alone.edited(site, x, y)
        if not any(site in part.edits.sites for part in self._parts):
            return y
        return torch.cat([part.alone.edited(site, *rows) for part, rows in self._by_part(x, y)])

    def norm(self, site: str, x: Tensor) -> Tensor:
        names = (f"{site}.weight", f"{site}.bias")
        if not any(site in part.edits.sites for part in self._parts):
            return frozen_norm(self.params, site, x, self.arch.eps)
        parts = []
        for part, (rows,) in self._by_part(x):
            edits = part.edits.sites.get(site, [])
            params = fold({name: self.params[name] for name in names}, [(edit, 1.0) for edit in edits])
            parts.append(frozen_norm(params, site, rows, self.arch.eps))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def extend(self, x: Tensor) -> Tensor:
        return x if self._alone is None else self._alone.extend(x)

    def strip(self, x: Tensor) -> Tensor:
        return x if self._alone is None else self._alone.strip(x)

    def rotate(self, qkv: Tensor, cosines: Tensor, sines: Tensor, *, halves: bool) -> Tensor:
        return turned_for_training(qkv, cosines, sines, self.arch.heads, halves=halves)

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        reading = [part for part in self._parts if block in part.edits.prefixes or part.edits.queries]
        if not reading:
            return self_attention(qkv, self.arch.heads)
        parts = [self._attend(block, part, rows) for part, (rows,) in self._by_part(qkv)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _attend(self, block: int, part: _Part, qkv: Tensor) -> Tensor:
        """[b, N, 3D] -> [b, N, D], of one learner's rows."""
        prefixes = part.edits.prefixes.get(block, ())
        if any(edit.weight != 1 for edit in (*prefixes, *part.edits.tokens)):
            return part.alone.attend(block, qkv)
        q, k, v = split_heads(qkv, self.arch.heads)
        part.alone.ask(block, k, v)
        if not prefixes:
            return self_attention(qkv, self.arch.heads)
        added = [prefix.keys_values(len(q), part.noise) for prefix in prefixes]
        keys, values = in_front([pair[0] for pair in added], k), in_front([pair[1] for pair in added], v)
        return attention(q, keys, values)

    def feature(self, feature: Tensor) -> Tensor:
        return feature if self._alone is None else self._alone.feature(feature)

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        factors, parts = list[Tensor | None](), list[Joined]()
        for part, rows in self._by_part(stream, normed, out):
            factor, own = _branches(part, sublayer, *rows)
            factors.append(factor)
            parts += own
        return joined(stream, out, self._of_all(factors), parts)

    def _of_all(self, factors: Sequence[Tensor | None]) -> Tensor | None:
        """[B, 1, 1]: the factors of all rows; None where all are 1."""
        some = next((factor for factor in factors if factor is not None), None)
        if some is None or len(factors) == 1:
            return some
        sizes = [part.rows.stop - part.rows.start for part in self._parts]
        ones = (some.new_ones(size, 1, 1) for size in sizes)
        return torch.cat([one if f is None else f for f, one in zip(factors, ones, strict=True)])

    def _by_part(self, *tensors: Tensor) -> Iterator[tuple[_Part, tuple[Tensor, ...]]]:
        """Each learner with its rows. `split` has one gradient; those of slices would be added one by one."""
        if len(self._parts) == 1:
            return iter([(self._parts[0], tensors)])
        sizes = [part.rows.stop - part.rows.start for part in self._parts]
        rows = zip(*(tensor.split(sizes) for tensor in tensors), strict=True)
        return zip(self._parts, rows, strict=True)


def _by_hand(edits: Sequence[AtSite]) -> bool:
    """Whether `edited_linear` carries out a learner's edits: low-rank ones, behind an affine one or none."""
    return all(isinstance(e, LowRank if place else Affine | LowRank) for place, e in enumerate(edits))


def _scales_input(edits: Sequence[AtSite]) -> bool:
    """Whether all that a learner's edits do at a linear is to scale its input."""
    return len(edits) == 1 and isinstance(edits[0], Input) and edits[0].scales


def _scaled(edits: Sequence[AtSite], x: Tensor) -> Tensor:
    """The input of a linear, [b, N, in], scaled where that is what the edits do."""
    only = edits[0] if _scales_input(edits) else None
    return x * only.factor(None) if isinstance(only, Input) else x


def _branches(
    part: _Part, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor
) -> tuple[Tensor | None, list[Joined]]:
    """A learner's factors of a sublayer's output, [b, 1, 1] or None for 1, and what its branches add.

    Random numbers are drawn in the order of `Functional.add`.
    """
    found, paths = [], list[Tensor | None]()
    for branch in part.edits.branches.get(sublayer, ()):
        u = branch.source.of(stream, normed, out)
        found.append((branch, dropped(branch.hidden(u, u.shape[1]), branch.dropout, part.noise)))
        apart = branch.source is not Source.OUTPUT
        paths.append(part.alone.path(sublayer, len(u), like=stream) if apart else None)
    factor = part.alone.path(sublayer, len(out), like=stream)
    joins = []
    for (branch, hidden), path in zip(found, paths, strict=True):
        path = factor if branch.source is Source.OUTPUT else path
        hidden = F.pad(hidden, (0, 1), value=1.0)  # the last column is for the bias
        hidden = hidden if path is None else hidden * path
        up = torch.cat([branch.up, branch.up_bias.unsqueeze(0)]) * branch.scale
        joins.append(Joined(rows=part.rows, hidden=hidden, up=up))
    return factor, joins
