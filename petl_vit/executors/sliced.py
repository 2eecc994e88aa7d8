"""Two ways to carry the same edits out: functionally with gradients, or in place on slices of rows.

`Functional` applies one adapter's edits to every row, out of place: for training, with dropout and
drop path. `Sliced` applies many adapters' edits, each to its own contiguous slice of the rows, in
place and without gradients: for serving. What an edit does is defined in `petl_vit.edits` alone; the
tests hold the two executors equal.

Shapes: B rows, N tokens, D width, H heads, d head width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from petl_vit.device import one_thread
from petl_vit.edits import (
    Alpha,
    Branch,
    Queries,
    Tokens,
    attend,
    weighted,
)
from petl_vit.executors.frozen import activate_, frozen_norm, merge_heads, split_heads
from petl_vit.executors.functional import _token_bias
from petl_vit.executors.lanes import Lane, _apply_, _parts, _Placed, _Run
from petl_vit.products import Params, linear, wide
from petl_vit.vit import FrozenViT

_ALONE = 2**18
"""Elements that an operation goes over, up to which one thread of a CPU is through sooner than two."""
_ALONE_ATTENTION = 2**22
"""The same of attention, in products of a query with a key, elementwise."""
_TO_THE_STREAM = (".proj", ".fc2")
"""Linears whose output is added to the residual stream, and so wanted in its precision."""


class Sliced:
    """Many adapters at once, each on its own slice of rows, in place, without gradients.

    Args:
        vit: The backbone.
        lanes: What edits which rows, in their order; rows without a lane get the frozen model.
        params: The parameters to run with; None means the frozen ones.
    """

    def __init__(self, vit: FrozenViT, lanes: Sequence[Lane], params: Params | None = None) -> None:
        self._arch = vit.arch
        self.params: Params = vit.params if params is None else params
        self._at: dict[str, _Placed] = {}
        self._branches: dict[str, list[tuple[_Run, Branch]]] = {}
        self._prefixed: dict[int, dict[tuple[int, int], list[tuple[Tensor, Tensor, Alpha]]]] = {}
        self._tokens: dict[tuple[int, int], list[tuple[Tokens, Alpha]]] = {}
        self._queries: list[tuple[slice, Queries, Alpha, list[Tensor]]] = []
        self._own = [(lane.rows, lane.params) for lane in lanes if lane.params is not None]
        for lane in lanes:
            self._place(lane)
        self._on_cpu, self._products = vit.device.type == "cpu", vit.product_dtype
        self._widest = max((lane.rows.stop - lane.rows.start for lane in lanes), default=0)
        self._extra_tokens = sum(len(t.prompts) for found in [*self._tokens.values()][:1] for t, _ in found)

    def _place(self, lane: Lane) -> None:
        run = _Run(rows=lane.rows, adapters=lane.adapters, alpha=lane.alpha)
        for site, edits in lane.edits.sites.items():
            placed = self._at.setdefault(site, [])
            found = [(edit, run) for edit in edits]
            if placed and placed[-1][0] == lane.rows:
                placed[-1][1].extend(found)
            else:
                placed.append((lane.rows, found))
        for sublayer, branches in lane.edits.branches.items():
            self._branches.setdefault(sublayer, []).extend((run, branch) for branch in branches)
        for block, pairs in lane.edits.keys_values.items():
            key = (lane.rows.start, lane.rows.stop)
            here = self._prefixed.setdefault(block, {}).setdefault(key, [])
            prefixes = lane.edits.prefixes[block]
            here.extend(
                (k, v, weighted(lane.alpha, prefix.weight, k))
                for prefix, (k, v) in zip(prefixes, pairs, strict=True)
            )
        self._queries.extend((lane.rows, queries, lane.alpha, []) for queries in lane.edits.queries)
        if lane.edits.tokens:
            carried = self._tokens.setdefault((lane.rows.start, lane.rows.stop), [])
            carried.extend((tokens, lane.alpha) for tokens in lane.edits.tokens)

    def over(self, names: Sequence[str], compute: Callable[[Tensor, Params], Tensor], x: Tensor) -> Tensor:
        own = [(rows, params) for rows, params in self._own if self._differs(params, names)]
        if not own:
            return compute(x, self.params)
        parts, done = [], 0
        for rows, params in own:
            if done < rows.start:
                parts.append(compute(x[done : rows.start], self.params))
            parts.append(compute(x[rows], params))
            done = rows.stop
        parts += [compute(x[done:], self.params)] if done < len(x) else []
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _differs(self, params: Params, names: Sequence[str]) -> bool:
        return any(params.get(name) is not self.params.get(name) for name in names)

    def _alone(self, x: Tensor, rows: int) -> bool:
        """Whether a pass over so many of the rows of x is too little to share among threads."""
        return self._on_cpu and x.numel() // len(x) * rows <= _ALONE

    def _edit_(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        """Applies a site's edits to its output y, in at least float32, and returns y."""
        placed = self._at.get(site)
        if placed is None:
            return y
        x = x.contiguous()
        with one_thread(self._alone(y, self._widest)):
            for part in _parts(placed, y.numel() // len(y)):
                first, last = part[0][0].start, part[-1][0].stop
                edited = y[first:last]
                target = wide(edited)
                for rows, edits in part:
                    _apply_(edits, rows, x, target, first)
                if target is not edited:
                    edited.copy_(target)
        return y

    def embed(self, patches: Tensor) -> Tensor:
        if "patch_embed.proj" not in self._at:
            return patches
        patches = patches.contiguous()
        return self._edit_("patch_embed.proj", patches, patches)

    def linear(self, site: str, x: Tensor) -> Tensor:
        names = (f"{site}.weight", f"{site}.bias")
        y = self.over(names, lambda z, params: linear(params, site, z), x.to(self._products))
        return self._edit_(site, x, wide(y) if site.endswith(_TO_THE_STREAM) else y)

    def norm(self, site: str, x: Tensor) -> Tensor:
        names, eps = (f"{site}.weight", f"{site}.bias"), self._arch.eps
        with one_thread(self._alone(x, len(x))):
            y = self.over(names, lambda z, params: frozen_norm(params, site, z, eps), x)
            return self._edit_(site, x, y)

    def extend(self, x: Tensor) -> Tensor:
        if not self._tokens:
            return x
        carried = []
        for start, stop in sorted(self._tokens):
            parts = [tokens.rows(stop - start) for tokens, _ in self._tokens[start, stop]]
            carried.append(torch.cat(parts, dim=1))
        return torch.cat([torch.cat(carried), x], dim=1)

    def activate(self, h: Tensor) -> Tensor:
        return activate_(self._arch.activation, h)

    def strip(self, x: Tensor) -> Tensor:
        return x[:, self._extra_tokens :]

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        rows, tokens, width = qkv.shape
        with one_thread(self._on_cpu and rows * tokens**2 * width // 3 <= _ALONE_ATTENTION):
            return self._attend(block, qkv)

    def _attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self._arch.heads)
        for rows, queries, _, outputs in self._queries:
            outputs.append(queries.outputs(block, k[rows], v[rows]))
        special = set(self._tokens) | set(self._prefixed.get(block, ()))
        if not special:
            return merge_heads(attend(q, k, v, []))
        out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        for start, stop in _runs(special, len(out)):
            rows = slice(start, stop)
            prefixes = self._prefixed.get(block, {}).get((start, stop), [])
            carried = self._tokens.get((start, stop), ())
            factors = [(weighted(alpha, t.weight, q), len(t.prompts)) for t, alpha in carried]
            bias = _token_bias(factors, k[rows])
            out[rows] = merge_heads(attend(q[rows], k[rows], v[rows], prefixes, bias))
        return out

    def feature(self, feature: Tensor) -> Tensor:
        deltas = [(rows, q.feature(feature[rows], found, alpha)) for rows, q, alpha, found in self._queries]
        for rows, delta in deltas:
            feature[rows] += delta
        for *_, found in self._queries:
            found.clear()
        return feature

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        with one_thread(self._alone(stream, len(stream))):
            return self._add(self._branches.get(sublayer, ()), stream, normed, out)

    def _add(
        self, branches: Sequence[tuple[_Run, Branch]], stream: Tensor, normed: Tensor, out: Tensor
    ) -> Tensor:
        alone, tokens = self._alone(stream, self._widest), stream.shape[1]
        with one_thread(alone):
            read = [b.hidden(run.of(b.source.of(stream, normed, out)), tokens) for run, b in branches]
        stream.add_(out)
        with one_thread(alone):
            for (run, branch), hidden in zip(branches, read, strict=True):
                branch.join_(run.of(stream), hidden, run.alpha_of(hidden))
        return stream


def _runs(special: set[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """The special runs of rows and the runs between them, covering all rows in order."""
    runs, done = [], 0
    for start, stop in sorted(special):
        if done < start:
            runs.append((done, start))
        runs.append((start, stop))
        done = stop
    return [*runs, (done, count)] if done < count else runs
