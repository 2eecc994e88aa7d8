"""One adapter's edits on every row, out of place, with gradients, dropout and drop path: for training.

Shapes: B rows, N tokens, D width, H heads, d head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from petl_vit.attention import attend, merge_heads, split_heads, token_bias
from petl_vit.branch import Source
from petl_vit.edit_set import EditSet
from petl_vit.edits import Edit, Foldable, fold
from petl_vit.executor import Executor
from petl_vit.noise import Noise
from petl_vit.per_row import Alpha, weighted
from petl_vit.vit import FrozenViT


class Functional(Executor):
    """One adapter's edits on every row, out of place: gradients flow to the edits' tensors.

    Args:
        vit: The backbone.
        edits: The adapter's edits; Dense ones replace parameters, so gradients reach them too.
        alpha: [B, 1, 1] or None for 1.
        noise: What dropout and drop path draw from, in training; None without them.
        drop_path: Rate p of the last block; block l of M has p * l / (M - 1).
    """

    def __init__(
        self,
        vit: FrozenViT,
        edits: Sequence[Edit],
        *,
        alpha: Alpha = None,
        noise: Noise | None = None,
        drop_path: float = 0.0,
    ) -> None:
        self.arch = vit.arch
        self.edits = EditSet(edits).over(vit.params)
        self._alpha = alpha
        self._noise = noise
        depth = vit.arch.depth
        self._drop_path = {
            f"blocks.{i}.{sublayer}": drop_path * i / max(1, depth - 1) if noise is not None else 0.0
            for i in range(depth)
            for sublayer in ("attn", "mlp")
        }
        self.params = vit.params
        if self.edits.dense:
            assert alpha is None, "dense edits at alpha are folded by the caller"
            # All foldable edits are folded: each reads the frozen weights, not the Dense ones.
            foldable = [edit for edit in edits if isinstance(edit, Foldable)]
            self.params = fold(vit.params, [(edit, 1.0) for edit in foldable])
            self.edits = EditSet([edit for edit in edits if not isinstance(edit, Foldable)])
        self._outputs: list[list[Tensor]] = [[] for _ in self.edits.queries]

    def edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        edits = self.edits.sites.get(site, ())
        deltas = [edit.delta(x, y, self._alpha, self._noise) for edit in edits]
        return sum(deltas, start=y)

    def extend(self, x: Tensor) -> Tensor:
        tokens = [t.rows(x.shape[0], self._noise) for t in self.edits.tokens]
        return torch.cat([*tokens, x], dim=1) if tokens else x

    def strip(self, x: Tensor) -> Tensor:
        return x[:, self.edits.extra_tokens :]

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.arch.heads)
        factors = [(weighted(self._alpha, t.weight, q), len(t.prompts)) for t in self.edits.tokens]
        bias = token_bias(factors, k)
        self.ask(block, k, v, bias)
        prefixes = [
            (*prefix.keys_values(q.shape[0], self._noise), weighted(self._alpha, prefix.weight, q))
            for prefix in self.edits.prefixes.get(block, ())
        ]
        return merge_heads(attend(q, k, v, prefixes, bias))

    def ask(self, block: int, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> None:
        """Takes the outputs of a block's queries, if there are any.

        Args:
            keys, values: [B, H, N, d].
            bias: [B, 1, N], the log weights of the tokens' keys; None for 0.
        """
        for queries, outputs in zip(self.edits.queries, self._outputs, strict=True):
            outputs.append(queries.outputs(block, keys, values, self._noise, bias))

    def feature(self, feature: Tensor) -> Tensor:
        outputs, self._outputs = self._outputs, [[] for _ in self.edits.queries]
        queries = zip(self.edits.queries, outputs, strict=True)
        return sum((q.feature(feature, of_blocks, self._alpha) for q, of_blocks in queries), start=feature)

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        total, parallel = out, []
        for branch in self.edits.branches.get(sublayer, ()):
            delta = branch.delta(stream, normed, out, self._alpha, self._noise)
            if branch.source is Source.OUTPUT:
                total = total + delta
            else:
                parallel.append((delta, self.path(sublayer, len(delta), like=delta)))
        stream = _added(stream, total, self.path(sublayer, len(total), like=stream))
        for delta, path in parallel:
            stream = _added(stream, delta, path)
        return stream

    def path(self, sublayer: str, rows: int, like: Tensor) -> Tensor | None:
        """[rows, 1, 1]: what stochastic depth multiplies a sublayer's output by; None for 1."""
        rate = self._drop_path[sublayer]
        return None if self._noise is None or not rate else self._noise.path(rows, rate, like)


def _added(stream: Tensor, x: Tensor, factor: Tensor | None) -> Tensor:
    """stream + factor x, in one pass."""
    return stream + x if factor is None else torch.addcmul(stream, x, factor)
