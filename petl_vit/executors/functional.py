"""One adapter's edits on every row, out of place, with gradients, dropout and drop path: for training.

Shapes: B rows, N tokens, D width, H heads, d head width."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from petl_vit.architecture import Architecture
from petl_vit.edit_set import EditSet
from petl_vit.edits import (
    Alpha,
    Edit,
    Foldable,
    Source,
    attend,
    fold,
    log_weights,
    weighted,
)
from petl_vit.executors.frozen import frozen_norm, merge_heads, split_heads
from petl_vit.products import Params, linear
from petl_vit.vit import FrozenViT


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
