"""Many adapters' edits, each on its slice of the rows, in place and without gradients: for serving.

A row computes its edits and no others. The tests hold this executor equal to `Functional`.

Shapes: B rows, N tokens, D width, H heads, d head width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from petl_vit.attention import attend, merge_heads, split_heads, token_bias
from petl_vit.branch import Branch
from petl_vit.device import one_thread
from petl_vit.edit_set import block_of_site
from petl_vit.executor import Executor, activate_, frozen_norm
from petl_vit.executors.lanes import Lane, SiteEdits, Turns, apply_, chunks, scales_of_input, taken_turns
from petl_vit.per_row import Alpha, weighted
from petl_vit.products import Params, linear, wide
from petl_vit.prompts import Queries, Tokens
from petl_vit.rotary import turn_
from petl_vit.vit import FrozenViT

_ONE_THREAD = 2**18
"""Up to this many elements, one CPU thread is faster than two."""
_ONE_THREAD_ATTENTION = 2**22
"""The same for attention, in multiplications of an element of a query with one of a key."""
_TO_THE_STREAM = (".proj", ".fc2")
"""Linears whose output is added to the residual stream, and is therefore needed in its precision."""
_OWN_INPUT = ".fc2"
"""Linears whose input nobody else reads, so that it may be scaled in place."""

_Span = tuple[int, int]
"""The first row of a slice, and the first after it."""


class Sliced(Executor):
    """Many adapters at once, each on its own slice of rows, in place, without gradients.

    Args:
        vit: The backbone.
        lanes: Edits and their rows, in the rows' order; rows without a lane get the frozen model.
        params: The parameters to run with; None means the backbone's.
    """

    def __init__(self, vit: FrozenViT, lanes: Sequence[Lane], params: Params | None = None) -> None:
        self.arch = vit.arch
        self.params = vit.params if params is None else params
        self._site_edits: dict[str, SiteEdits] = {}
        self._branches: dict[str, list[tuple[Lane, Branch]]] = {}
        self._prefixes: dict[int, dict[_Span, list[tuple[Tensor, Tensor, Alpha]]]] = {}
        self._tokens: dict[_Span, list[tuple[Tokens, Alpha]]] = {}
        self._queries: list[tuple[slice, Queries, Alpha, list[Tensor]]] = []
        self._replacements = [(lane.rows, lane.params) for lane in lanes if lane.params is not None]
        for lane in lanes:
            self._enter(lane)
        self._scales: dict[str, Turns] = {}
        for site in [site for site in self._site_edits if site.endswith(_OWN_INPUT)]:
            self._scales[site], rest = scales_of_input(self._site_edits.pop(site))
            self._site_edits |= {site: rest} if rest else {}
        turned = {site for lane in lanes for site in lane.edits.turned}
        self._turns = {site: taken_turns(self._site_edits[site]) for site in turned & self._site_edits.keys()}
        self._on_cpu, self._products = vit.device.type == "cpu", vit.product_dtype
        self._widest = max((lane.rows.stop - lane.rows.start for lane in lanes), default=0)
        # Every row carries equally many tokens, as rows of different lengths do not share a forward.
        tokens: Sequence[tuple[Tokens, Alpha]] = next(iter(self._tokens.values()), ())
        self._extra_tokens = sum(len(t.prompts) for t, _ in tokens)

    def _enter(self, lane: Lane) -> None:
        """Files a lane's edits by where they act."""
        for site, edits in lane.edits.over(self.params).sites.items():
            here = lane.in_block(block_of_site(site))
            if here is None:
                continue
            at_site = self._site_edits.setdefault(site, [])
            with_lane = [(edit, here) for edit in edits]
            if at_site and at_site[-1][0] == lane.rows:
                at_site[-1][1].extend(with_lane)
            else:
                at_site.append((lane.rows, with_lane))
        for sublayer, branches in lane.edits.branches.items():
            here = lane.in_block(block_of_site(sublayer))
            if here is not None:
                self._branches.setdefault(sublayer, []).extend((here, branch) for branch in branches)
        for block, keys_values in lane.edits.keys_values.items():
            here = lane.in_block(block)
            if here is None:
                continue
            self._prefixes.setdefault(block, {}).setdefault(lane.span, []).extend(
                (k, v, weighted(here.alpha, prefix.weight, k))
                for prefix, (k, v) in zip(lane.edits.prefixes[block], keys_values, strict=True)
            )
        self._queries.extend((lane.rows, queries, lane.alpha, []) for queries in lane.edits.queries)
        if lane.edits.tokens:
            carried = self._tokens.setdefault(lane.span, [])
            carried.extend((tokens, lane.alpha) for tokens in lane.edits.tokens)

    def over(self, names: Sequence[str], compute: Callable[[Tensor, Params], Tensor], x: Tensor) -> Tensor:
        replaced = [(rows, params) for rows, params in self._replacements if self._differs(params, names)]
        if not replaced:
            return compute(x, self.params)
        parts, done = [], 0
        for rows, params in replaced:
            if done < rows.start:
                parts.append(compute(x[done : rows.start], self.params))
            parts.append(compute(x[rows], params))
            done = rows.stop
        parts += [compute(x[done:], self.params)] if done < len(x) else []
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _differs(self, params: Params, names: Sequence[str]) -> bool:
        return any(params.get(name) is not self.params.get(name) for name in names)

    def _is_little(self, x: Tensor, rows: int) -> bool:
        """Whether a pass over this many rows of x is too little work to share among threads."""
        return self._on_cpu and x.numel() // len(x) * rows <= _ONE_THREAD

    def edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        """Applies a site's edits to its output y in place, in at least float32, and returns y."""
        site_edits = self._site_edits.get(site)
        if not site_edits:
            return y
        x = x.contiguous()
        with one_thread(self._is_little(y, self._widest)):
            for chunk in chunks(site_edits, y.numel() // len(y)):
                first, last = chunk[0][0].start, chunk[-1][0].stop
                narrow = y[first:last]
                target = wide(narrow)
                for rows, edits in chunk:
                    apply_(edits, rows, x, target, first)
                if target is not narrow:
                    narrow.copy_(target)
        return y

    def embed(self, patches: Tensor) -> Tensor:
        if "patch_embed.proj" not in self._site_edits:
            return patches
        patches = patches.contiguous()
        return self.edited("patch_embed.proj", patches, patches)

    def linear(self, site: str, x: Tensor) -> Tensor:
        names = (f"{site}.weight", f"{site}.bias")
        x = x.to(self._products)
        for edit, lane in self._scales.get(site, ()):
            rows = lane.rows_of(x)
            rows.mul_(edit.factor(lane.alpha_of(rows)))
        y = self.over(names, lambda z, params: linear(params, site, z), self._turned(site, x))
        return self.edited(site, x, wide(y) if site.endswith(_TO_THE_STREAM) else y)

    def _turned(self, site: str, x: Tensor) -> Tensor:
        """What a linear takes: x, with the rows turned whose edits turn it."""
        turns = self._turns.get(site)
        if not turns:
            return x
        turned = x.clone()  # other edits of these rows read x
        for edit, lane in turns:
            rows = lane.rows_of(turned)
            rows += edit.moved(lane.rows_of(x), lane.alpha_of(rows))
        return turned

    def norm(self, site: str, x: Tensor) -> Tensor:
        names, eps = (f"{site}.weight", f"{site}.bias"), self.arch.eps
        with one_thread(self._is_little(x, len(x))):
            y = self.over(names, lambda z, params: frozen_norm(params, site, z, eps), x)
            return self.edited(site, x, y)

    def extend(self, x: Tensor) -> Tensor:
        if not self._tokens:
            return x
        carried = []
        for start, stop in sorted(self._tokens):
            parts = [tokens.rows(stop - start) for tokens, _ in self._tokens[start, stop]]
            carried.append(torch.cat(parts, dim=1))
        return torch.cat([torch.cat(carried), x], dim=1)

    def activate(self, h: Tensor) -> Tensor:
        return activate_(self.arch.activation, h)

    def strip(self, x: Tensor) -> Tensor:
        return x[:, self._extra_tokens :]

    def rotate(self, qkv: Tensor, cosines: Tensor, sines: Tensor, *, halves: bool) -> Tensor:
        return turn_(qkv, cosines, sines, self.arch.heads, halves=halves)

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        rows, tokens, width = qkv.shape
        with one_thread(self._on_cpu and rows * tokens**2 * width // 3 <= _ONE_THREAD_ATTENTION):
            return self._attend(block, qkv)

    def _attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.arch.heads)
        for rows, queries, _, outputs in self._queries:
            bias = self._token_bias((rows.start, rows.stop), k[rows])
            outputs.append(queries.outputs(block, k[rows], v[rows], bias=bias))
        special = set(self._tokens) | set(self._prefixes.get(block, ()))
        if not special:
            return merge_heads(attend(q, k, v, []))
        out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        for start, stop in _spans(special, len(out)):
            rows = slice(start, stop)
            prefixes = self._prefixes.get(block, {}).get((start, stop), [])
            bias = self._token_bias((start, stop), k[rows])
            out[rows] = merge_heads(attend(q[rows], k[rows], v[rows], prefixes, bias))
        return out

    def _token_bias(self, span: _Span, keys: Tensor) -> Tensor | None:
        """[b, 1, N]: the log weights of the keys [b, H, N, d] of a span's rows; None for 0."""
        carried = self._tokens.get(span, ())
        return token_bias([(weighted(a, t.weight, keys), len(t.prompts)) for t, a in carried], keys)

    def feature(self, feature: Tensor) -> Tensor:
        deltas = [(rows, q.feature(feature[rows], outs, alpha)) for rows, q, alpha, outs in self._queries]
        for rows, delta in deltas:
            feature[rows] += delta
        for *_, outputs in self._queries:
            outputs.clear()
        return feature

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        with one_thread(self._is_little(stream, len(stream))):
            return self._add(self._branches.get(sublayer, ()), stream, normed, out)

    def _add(
        self, branches: Sequence[tuple[Lane, Branch]], stream: Tensor, normed: Tensor, out: Tensor
    ) -> Tensor:
        little, tokens = self._is_little(stream, self._widest), stream.shape[1]
        with one_thread(little):
            bottlenecks = [
                branch.hidden(lane.rows_of(branch.source.of(stream, normed, out)), tokens)
                for lane, branch in branches
            ]
        stream.add_(out)
        with one_thread(little):
            for (lane, branch), hidden in zip(branches, bottlenecks, strict=True):
                branch.join_(lane.rows_of(stream), hidden, lane.alpha_of(hidden))
        return stream


def _spans(special: set[_Span], count: int) -> list[_Span]:
    """The special spans of rows and those between them, covering all rows in order."""
    spans, done = [], 0
    for start, stop in sorted(special):
        if done < start:
            spans.append((done, start))
        spans.append((start, stop))
        done = stop
    return [*spans, (done, count)] if done < count else spans
