"""Two ways to carry the same edits out: functionally with gradients, or in place on slices of rows.

`Functional` applies one adapter's edits to every row, out of place: for training, with dropout and
drop path. `Sliced` applies many adapters' edits, each to its own contiguous slice of the rows, in
place and without gradients: for serving. What an edit does is defined in `petl_vit.edits` alone; the
tests hold the two executors equal.

Shapes: B rows, N tokens, D width, H heads, d head width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.architecture import Architecture
from petl_vit.device import one_thread
from petl_vit.edit_set import EditSet
from petl_vit.edits import (
    Alpha,
    AtSite,
    Branch,
    Edit,
    Foldable,
    Queries,
    Source,
    Tokens,
    attend,
    fold,
    log_weights,
    weighted,
)
from petl_vit.products import Params, linear, wide
from petl_vit.vit import FrozenViT

_ALONE = 2**18
"""Elements that an operation goes over, up to which one thread of a CPU is through sooner than two."""
_ALONE_ATTENTION = 2**22
"""The same of attention, in products of a query with a key, elementwise."""
_WIDENED = 2**20
"""Elements of bf16 outputs that are widened for their edits at once."""
_TO_THE_STREAM = (".proj", ".fc2")
"""Linears whose output is added to the residual stream, and so wanted in its precision."""


def frozen_norm(params: Params, site: str, x: Tensor, eps: float) -> Tensor:
    weight = params[f"{site}.weight"]
    return F.layer_norm(x, weight.shape, weight, params[f"{site}.bias"], eps)


_ACTIVATE_IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_.default,  # a second tensor of this size costs more than the function
}


def activate_(activation: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """[B, N, M] -> same: in place where the activation can be; h is lost."""
    return _ACTIVATE_IN_PLACE.get(activation, activation)(h)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N, 3D] -> q, k, v, each [B, H, N, d] (views)."""
    rows, tokens, width = qkv.shape
    q, k, v = qkv.view(rows, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merge_heads(out: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, D]."""
    return out.transpose(1, 2).flatten(2)


class Functional:
    """One adapter's edits on every row, out of place: gradients flow to the edits' tensors.

    Args:
        vit: The backbone.
        edits: The adapter's edits; Dense ones replace parameters, so gradients reach them too.
        alpha: [B, 1, 1] or None for 1.
        training: Whether dropout and drop path act.
        drop_path: Rate p of the last block; block l of M has p * l / (M - 1).
    """

    def __init__(
        self,
        vit: FrozenViT,
        edits: Sequence[Edit],
        *,
        alpha: Alpha = None,
        training: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        self._arch: Architecture = vit.arch
        self._edits = EditSet(edits)
        self._alpha = alpha
        self._training = training
        depth = vit.arch.depth
        self._drop_path = {
            f"blocks.{i}.{sublayer}": drop_path * i / max(1, depth - 1) if training else 0.0
            for i in range(depth)
            for sublayer in ("attn", "mlp")
        }
        self.params: Params = vit.params
        if self._edits.dense:
            assert alpha is None, "dense edits at alpha are folded by the caller"
            # Others that fold go along, as each reads the frozen model and not what Dense made of it.
            foldable = [edit for edit in edits if isinstance(edit, Foldable)]
            self.params = fold(vit.params, [(edit, 1.0) for edit in foldable])
            self._edits = EditSet([edit for edit in edits if not isinstance(edit, Foldable)])

        self._outputs: list[list[Tensor]] = [[] for _ in self._edits.queries]

    def over(self, names: Sequence[str], compute: Callable[[Tensor, Params], Tensor], x: Tensor) -> Tensor:
        return compute(x, self.params)

    def _edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        edits = self._edits.sites.get(site, ())
        deltas = [edit.delta(x, y, self._alpha, self._training) for edit in edits]
        return sum(deltas, start=y)

    def embed(self, patches: Tensor) -> Tensor:
        return self._edited("patch_embed.proj", patches, patches)

    def linear(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, linear(self.params, site, x))

    def norm(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, frozen_norm(self.params, site, x, self._arch.eps))

    def extend(self, x: Tensor) -> Tensor:
        tokens = [t.rows(x.shape[0], self._training) for t in self._edits.tokens]
        return torch.cat([*tokens, x], dim=1) if tokens else x

    def activate(self, h: Tensor) -> Tensor:
        return self._arch.activation(h)

    def strip(self, x: Tensor) -> Tensor:
        return x[:, self._edits.extra_tokens :]

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self._arch.heads)
        for queries, outputs in zip(self._edits.queries, self._outputs, strict=True):
            outputs.append(queries.outputs(block, k, v))
        prefixes = [
            (*prefix.keys_values(q.shape[0], self._training), weighted(self._alpha, prefix.weight, q))
            for prefix in self._edits.prefixes.get(block, ())
        ]
        factors = [(weighted(self._alpha, t.weight, q), len(t.prompts)) for t in self._edits.tokens]
        return merge_heads(attend(q, k, v, prefixes, _token_bias(factors, k)))

    def feature(self, feature: Tensor) -> Tensor:
        collected, self._outputs = self._outputs, [[] for _ in self._edits.queries]
        joined = zip(self._edits.queries, collected, strict=True)
        return sum((q.feature(feature, outputs, self._alpha) for q, outputs in joined), start=feature)

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        rate, total = self._drop_path[sublayer], out
        parallel = []
        for branch in self._edits.branches.get(sublayer, ()):
            delta = branch.delta(stream, normed, out, self._alpha, self._training)
            if branch.source is Source.OUTPUT:
                total = total + delta
            else:
                parallel.append(_drop_rows(delta, rate))
        return sum(parallel, start=stream + _drop_rows(total, rate))


def _token_bias(factors: Sequence[tuple[Alpha, int]], keys: Tensor) -> Tensor | None:
    """[B, 1, N]: the log weights of carried tokens' keys [B, H, N, d], 0 for all others; None if all are 0.

    Args:
        factors: alpha and number of the tokens of each term, in order of the sequence.
    """
    if all(alpha is None for alpha, _ in factors):
        return None
    rows, carried = keys.shape[0], sum(count for _, count in factors)
    parts, start = [], 0
    for alpha, count in factors:
        parts.append(log_weights(alpha, rows, keys[:, :, start : start + count]))
        start += count
    return torch.cat([*parts, keys.new_zeros(rows, 1, keys.shape[2] - carried)], dim=2)


def _drop_rows(x: Tensor, rate: float) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): whole rows of [B, N, D] dropped, the rest scaled up."""
    if not rate:
        return x
    kept = torch.empty(x.shape[0], 1, 1, device=x.device, dtype=x.dtype).bernoulli_(1 - rate)
    return x * kept.div_(1 - rate)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One adapter's edits, or those of several that stack, on a contiguous slice of the rows.

    Several lanes may share a slice.

    Attributes:
        alpha: [rows, 1, 1] or None for 1.
        adapters: How many are stacked, each for equally many rows that follow each other.
        params: What the rows run with instead of the others' parameters.
    """

    rows: slice
    edits: EditSet
    alpha: Alpha
    adapters: int = 1
    params: Params | None = None


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The rows of a lane, and how edits read them."""

    rows: slice
    adapters: int
    alpha: Alpha

    def of(self, x: Tensor, first: int = 0) -> Tensor:
        """The run's rows of x, which begins at row `first`; of stacked adapters [A, n N, D]."""
        found = x[self.rows.start - first : self.rows.stop - first]
        return found if self.adapters == 1 else found.view(self.adapters, -1, x.shape[-1])

    def alpha_of(self, x: Tensor) -> Alpha:
        """The factors of what `of` returned: [rows, 1, 1], or [A, n N, 1]."""
        if self.alpha is None or self.adapters == 1:
            return self.alpha
        each = self.alpha.view(self.adapters, -1, 1)
        return each.repeat_interleave(x.shape[1] // each.shape[1], dim=1)


_Placed = list[tuple[slice, list[tuple[AtSite, _Run]]]]
"""Slices of rows at a site, in order, and what edits each."""


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


def _parts(placed: _Placed, row: int) -> Iterator[_Placed]:
    """What is placed at a site, so many rows together as widened stay near a CPU's cores.

    Args:
        row: Elements of one row of the site's output.
    """
    part: _Placed = []
    for rows, edits in placed:
        if part and (rows.stop - part[0][0].start) * row > _WIDENED:
            yield part
            part = []
        part.append((rows, edits))
    yield part


def _apply_(edits: list[tuple[AtSite, _Run]], rows: slice, x: Tensor, y: Tensor, first: int) -> None:
    """Adds the edits of a slice of rows to a site's output y, which begins at row `first`."""
    if len(edits) == 1:
        edit, run = edits[0]
        y_rows = run.of(y, first)
        return edit.apply_(run.of(x), y_rows, run.alpha_of(y_rows))
    # All read the frozen output, so none may write before all have read.
    y_rows = y[rows.start - first : rows.stop - first]
    y_rows += sum(_delta(edit, run, x, y, first).reshape(y_rows.shape) for edit, run in edits)
    return None


def _delta(edit: AtSite, run: _Run, x: Tensor, y: Tensor, first: int) -> Tensor:
    """What an edit adds to the run's rows of a site's output y, which begins at row `first`."""
    y_rows = run.of(y, first)
    return edit.delta(run.of(x), y_rows, run.alpha_of(y_rows))


def _runs(special: set[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """The special runs of rows and the runs between them, covering all rows in order."""
    runs, done = [], 0
    for start, stop in sorted(special):
        if done < start:
            runs.append((done, start))
        runs.append((start, stop))
        done = stop
    return [*runs, (done, count)] if done < count else runs
