"""Two ways to carry the same edits out: functionally with gradients, or in place on slices of rows.

`Functional` applies one adapter's edits to every row, out of place: for training, with dropout and
drop path. `Sliced` applies many adapters' edits, each to its own contiguous slice of the rows, in
place and without gradients: for serving. What an edit does is defined in `petl_vit.edits` alone; the
tests hold the two executors equal.

Shapes: B rows, N tokens, D width, H heads, d head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.edits import Alpha, AtSite, Branch, Dense, Edit, Prefix, attend, by_site, fold
from petl_vit.vit import Architecture, FrozenViT, Params


def _frozen_linear(params: Params, site: str, x: Tensor) -> Tensor:
    return F.linear(x, params[f"{site}.weight"], params.get(f"{site}.bias"))


def _frozen_norm(params: Params, site: str, x: Tensor, eps: float) -> Tensor:
    weight = params[f"{site}.weight"]
    return F.layer_norm(x, weight.shape, weight, params[f"{site}.bias"], eps)


def _frozen_patches(params: Params, images: Tensor, patch: int) -> Tensor:
    """[B, 3, S, S] -> [B, N, D]: the patch convolution."""
    weight, bias = params["patch_embed.proj.weight"], params.get("patch_embed.proj.bias")
    return F.conv2d(images, weight, bias, stride=patch).flatten(2).transpose(1, 2)


def _split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N, 3D] -> q, k, v, each [B, H, N, d] (views)."""
    rows, tokens, width = qkv.shape
    q, k, v = qkv.view(rows, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _merge_heads(out: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, D]."""
    return out.transpose(1, 2).flatten(2)


class EditSet:
    """The edits of one adapter, by where they act. Dense edits are not here: they make a `fold`."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = tuple(edits)
        self.sites = by_site(list(edits))
        self.branches: dict[str, list[Branch]] = {}
        self.prefixes: dict[int, list[Prefix]] = {}
        self.dense: list[Dense] = []
        for edit in edits:
            if isinstance(edit, Branch):
                self.branches.setdefault(edit.sublayer, []).append(edit)
            elif isinstance(edit, Prefix):
                self.prefixes.setdefault(edit.block, []).append(edit)
            elif isinstance(edit, Dense):
                self.dense.append(edit)

    @cached_property
    def keys_values(self) -> dict[int, list[tuple[Tensor, Tensor]]]:
        """Every block's constant extra keys and values, each [1, H, n, d]; computed once."""
        with torch.no_grad():
            return {block: [p.keys_values(1) for p in found] for block, found in self.prefixes.items()}


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
            self.params = fold(vit.params, [(edit, 1.0) for edit in self._edits.dense])

    def _edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        edits = self._edits.sites.get(site, ())
        deltas = [edit.delta(x, y, self._alpha, self._training) for edit in edits]
        return sum(deltas, start=y)

    def patches(self, images: Tensor) -> Tensor:
        y = _frozen_patches(self.params, images, self._arch.patch_size)
        return self._edited("patch_embed.proj", y, y)

    def linear(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, _frozen_linear(self.params, site, x))

    def norm(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, _frozen_norm(self.params, site, x, self._arch.eps))

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = _split_heads(qkv, self._arch.heads)
        prefixes = [
            (*prefix.keys_values(q.shape[0], self._training), self._alpha)
            for prefix in self._edits.prefixes.get(block, ())
        ]
        return _merge_heads(attend(q, k, v, prefixes))

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        rate = self._drop_path[sublayer]
        total = stream + _drop_rows(out, rate)
        for branch in self._edits.branches.get(sublayer, ()):
            total = total + _drop_rows(branch.delta(stream, self._alpha, self._training), rate)
        return total


def _drop_rows(x: Tensor, rate: float) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): whole rows of [B, N, D] dropped, the rest scaled up."""
    if not rate:
        return x
    kept = torch.empty(x.shape[0], 1, 1, device=x.device, dtype=x.dtype).bernoulli_(1 - rate)
    return x * kept.div_(1 - rate)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One adapter's edits on a contiguous slice of the rows. Several lanes may share a slice."""

    rows: slice
    edits: EditSet
    alpha: Alpha  # [rows, 1, 1] or None for 1


class Sliced:
    """Many adapters at once, each on its own slice of rows, in place, without gradients.

    Args:
        vit: The backbone.
        lanes: What edits which rows; rows without a lane get the frozen model.
        params: The parameters to run with; None means the frozen ones.
    """

    def __init__(self, vit: FrozenViT, lanes: Sequence[Lane], params: Params | None = None) -> None:
        self._arch = vit.arch
        self.params: Params = vit.params if params is None else params
        self._at: dict[str, list[tuple[slice, list[tuple[AtSite, Alpha]]]]] = {}
        self._branches: dict[str, list[tuple[slice, Branch, Alpha]]] = {}
        self._prefixed: dict[int, dict[tuple[int, int], list[tuple[Tensor, Tensor, Alpha]]]] = {}
        for lane in lanes:
            self._place(lane)

    def _place(self, lane: Lane) -> None:
        for site, edits in lane.edits.sites.items():
            placed = self._at.setdefault(site, [])
            found = [(edit, lane.alpha) for edit in edits]
            if placed and placed[-1][0] == lane.rows:
                placed[-1][1].extend(found)
            else:
                placed.append((lane.rows, found))
        for sublayer, branches in lane.edits.branches.items():
            self._branches.setdefault(sublayer, []).extend((lane.rows, b, lane.alpha) for b in branches)
        for block, pairs in lane.edits.keys_values.items():
            key = (lane.rows.start, lane.rows.stop)
            here = self._prefixed.setdefault(block, {}).setdefault(key, [])
            here.extend((k, v, lane.alpha) for k, v in pairs)

    def _edit_(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        for rows, edits in self._at.get(site, ()):
            x_rows, y_rows = x[rows], y[rows]
            if len(edits) == 1:
                edit, alpha = edits[0]
                edit.apply_(x_rows, y_rows, alpha)
            else:  # all read the frozen output, so none may write before all have read
                y_rows += sum(edit.delta(x_rows, y_rows, alpha) for edit, alpha in edits)
        return y

    def patches(self, images: Tensor) -> Tensor:
        y = _frozen_patches(self.params, images, self._arch.patch_size)
        return self._edit_("patch_embed.proj", y, y)

    def linear(self, site: str, x: Tensor) -> Tensor:
        return self._edit_(site, x, _frozen_linear(self.params, site, x))

    def norm(self, site: str, x: Tensor) -> Tensor:
        return self._edit_(site, x, _frozen_norm(self.params, site, x, self._arch.eps))

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = _split_heads(qkv, self._arch.heads)
        prefixed = self._prefixed.get(block)
        if not prefixed:
            return _merge_heads(attend(q, k, v, []))
        out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        done = 0
        for start, stop in sorted(prefixed):
            if done < start:
                out[done:start] = _merge_heads(attend(q[done:start], k[done:start], v[done:start], []))
            rows = slice(start, stop)
            out[rows] = _merge_heads(attend(q[rows], k[rows], v[rows], prefixed[start, stop]))
            done = stop
        if done < len(out):
            out[done:] = _merge_heads(attend(q[done:], k[done:], v[done:], []))
        return out

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        branches = self._branches.get(sublayer, ())
        deltas = [(rows, branch.delta(stream[rows], alpha)) for rows, branch, alpha in branches]
        stream.add_(out)
        for rows, delta in deltas:
            stream[rows].add_(delta)
        return stream
