"""Prompts: trained tokens in front of the sequence, keys and values of one block, queries beside every block.

Shapes: B rows, n prompts of a block, M blocks, D width, H heads, d head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.noise import Noise, dropped, dropped_for_all
from petl_vit.per_row import Alpha, at_alpha


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Prompt tokens in front of the sequence, carried through all blocks and dropped before the final norm.

    As keys their unnormalised attention weight is multiplied by alpha (ours), for every query.

    Attributes:
        prompts: [n, D].
        dropout: Rate on them in training.
        one_mask: Whether all rows of a batch have one mask of dropout, instead of one each.
        weight: Multiplies every row's alpha.
    """

    prompts: Tensor
    dropout: float = 0.0
    one_mask: bool = False
    weight: float = 1.0

    def rows(self, count: int, noise: Noise | None = None) -> Tensor:
        """[count, n, D]."""
        if self.one_mask:
            return dropped_for_all(self.prompts, self.dropout, noise).expand(count, -1, -1)
        return dropped(self.prompts.expand(count, -1, -1), self.dropout, noise)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """Added keys and values in the attention of one block, computed from prompts P.

    They are LN1(P) W_k + b_k and LN1(P) W_v + b_v with the frozen weights: exactly what prompt tokens
    in front of the block contribute when their outputs are dropped after it. The unnormalised attention
    weight of each prompt is multiplied by alpha (ours), so at 0 the prompts are absent.

    Attributes:
        prompts: [n, D].
        project: Frozen norm and projection of block `block`: [..., n, D] -> keys and values
            [..., H, n, d].
        dropout: Rate on P in training.
        one_mask: Whether all rows of a batch have one mask of dropout, instead of one each.
        weight: Multiplies every row's alpha.
    """

    block: int
    prompts: Tensor
    project: Callable[[Tensor], tuple[Tensor, Tensor]]
    dropout: float = 0.0
    one_mask: bool = False
    weight: float = 1.0

    def keys_values(self, rows: int, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values, each [rows or 1, H, n, d]."""
        prompts = self.prompts.unsqueeze(0)
        if self.one_mask:
            prompts = dropped_for_all(prompts, self.dropout, noise)
        elif noise is not None and self.dropout:
            prompts = noise.dropout(prompts.expand(rows, -1, -1), self.dropout)
        return self.project(prompts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """Queries beside every block, whose outputs join the feature f: f += alpha weight (m - f).

    m = mix_0 f / |f| + the outputs of all blocks' queries, in order, times the rest of mix. The tokens of
    the forward do not see them.

    Attributes:
        mix: [1 + M n].
        prompts: [n, D] for each of M blocks.
        through_block: The queries' outputs: block number, prompts, the block's keys and values [B, H, N, d],
            and the log weights of the keys, [B, 1, N] or None for 0 -> [B, n, D].
        dropout: Rate on the prompts in training, one mask for all rows.
        weight: Multiplies every row's alpha.
    """

    mix: Tensor
    prompts: tuple[Tensor, ...]
    through_block: Callable[[int, Tensor, Tensor, Tensor, Tensor | None], Tensor]
    dropout: float = 0.0
    weight: float = 1.0

    def outputs(
        self,
        block: int,
        keys: Tensor,
        values: Tensor,
        noise: Noise | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """[B, n, D]: the outputs of a block's queries, L2-normalised."""
        prompts = dropped_for_all(self.prompts[block], self.dropout, noise)
        return F.normalize(self.through_block(block, prompts, keys, values, bias), dim=-1)

    def feature(self, feature: Tensor, outputs: Sequence[Tensor], alpha: Alpha) -> Tensor:
        """The delta of the feature [B, D], from the outputs of all blocks' queries."""
        vectors = torch.cat([F.normalize(feature, dim=-1).unsqueeze(1), *outputs], dim=1)
        return at_alpha(self.weight * (self.mix @ vectors - feature), alpha)
