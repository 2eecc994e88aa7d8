"""What carries out the operations of a forward. As it stands it is the frozen model.

`petl_vit.vit` says in which order the operations follow; an executor (`petl_vit.executors`) overrides
those that its edits change.

Shapes: B rows, N tokens, n prompts, D width, M hidden width.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.architecture import Architecture
from petl_vit.attention import merge_heads, split_heads
from petl_vit.products import Params, linear
from petl_vit.rotary import COSINES, SINES, turned


class Executor(Protocol):
    """Carries out the operations of a forward for a batch of rows, each with the edits of its site.

    Attributes:
        params: What the rows run with.
    """

    arch: Architecture
    params: Params

    def over(self, names: Sequence[str], compute: Callable[[Tensor, Params], Tensor], x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]: `compute` of each row with the parameters that the row runs with.

        Args:
            names: The parameters that `compute` reads.
        """
        return compute(x, self.params)

    def edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        """The output y of the frozen operation at a site, plus what the edits there add for its input x."""
        return y

    def begin(
        self,
        patches: Tensor,
        sources: Tensor | None,
        names: Sequence[str],
        compute: Callable[[Tensor, Params], Tensor],
    ) -> Tensor:
        """The stream of rows [B, n + N, D] from the patches of images [U, N, D].

        Args:
            sources: [B], each row's image, int64; None where row i has image i.
            compute: Adds the embeddings, whose parameters have these names.
        """
        rows = patches if sources is None else patches[sources]
        return self.over(names, compute, self.embed(rows))

    def embed(self, patches: Tensor) -> Tensor:
        """[B, N, D] -> same: the edits of the patch embedding."""
        return self.edited("patch_embed.proj", patches, patches)

    def linear(self, site: str, x: Tensor) -> Tensor:
        """[B, N, in] -> [B, N, out]: the frozen linear and its edits."""
        return self.edited(site, x, linear(self.params, site, x))

    def norm(self, site: str, x: Tensor) -> Tensor:
        """[B, N, D] or [B, D] -> same: the frozen LayerNorm and its edits."""
        return self.edited(site, x, frozen_norm(self.params, site, x, self.arch.eps))

    def extend(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, n + N, D]: the edits' tokens in front."""
        return x

    def strip(self, x: Tensor) -> Tensor:
        """[B, n + N, D] -> [B, N, D]: those tokens removed."""
        return x

    def turn(self, qkv: Tensor) -> Tensor:
        """[B, N, 3D] -> same: queries and keys of the patches, turned by their positions; may be in place."""
        rotary = self.arch.rotary
        if rotary is None:
            return qkv
        return self.rotate(qkv, self.params[COSINES], self.params[SINES], halves=rotary.halves)

    def rotate(self, qkv: Tensor, cosines: Tensor, sines: Tensor, *, halves: bool) -> Tensor:
        """[B, N, 3D] -> same: how `turn` does it, with the tables of `petl_vit.rotary`."""
        return turned(qkv, cosines, sines, self.arch.heads, halves=halves)

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        """[B, N, 3D] -> [B, N, D]: attention, with the edits' extra keys and values."""
        return merge_heads(F.scaled_dot_product_attention(*split_heads(qkv, self.arch.heads)))

    def activate(self, h: Tensor) -> Tensor:
        """[B, N, M] -> same: the MLP's activation."""
        return self.arch.activation(h)

    def feature(self, feature: Tensor) -> Tensor:
        """[B, D] -> same: the pooled feature and what edits join to it."""
        return feature

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        """The residual stream after a sublayer: stream + out + the edits' branches.

        Args:
            sublayer: `blocks.L.attn` or `blocks.L.mlp`.
            stream: [B, N, D], before the sublayer; normed: the same after its norm.
            out: [B, N, D], the sublayer's output after LayerScale.
        """
        return stream + out

    def add_norm(
        self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor, site: str
    ) -> tuple[Tensor, Tensor]:
        """The stream after a sublayer, as `add` has it, and the same after the norm at a site."""
        stream = self.add(sublayer, stream, normed, out)
        return stream, self.norm(site, stream)


def frozen_norm(params: Params, site: str, x: Tensor, eps: float) -> Tensor:
    """[..., D] -> same: a LayerNorm with the parameters of a site."""
    weight = params[f"{site}.weight"]
    return F.layer_norm(x, weight.shape, weight, params[f"{site}.bias"], eps)


_ACTIVATE_IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_.default,  # a second tensor of this size costs more than the function
}


def activate_(activation: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """[B, N, M] -> same: in place where the activation can be; h is lost."""
    return _ACTIVATE_IN_PLACE.get(activation, activation)(h)
