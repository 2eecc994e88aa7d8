"""Many adapters' edits by kernels that look them up by each row's slot number: for CUDA graphs.

As in `gathered`, no shape and no loop depends on which row has which adapter, so that one CUDA graph serves
every mixture; as in `sliced`, a row computes its edits and no others (`kernels`).

Shapes: B rows, N tokens, D width, H heads.
"""

import torch
from torch import Tensor

from petl_vit.arena import Layout
from petl_vit.attention import merge_heads, split_heads
from petl_vit.executor import Executor, activate_, frozen_norm
from petl_vit.executors import kernels
from petl_vit.executors.kernels import Rows
from petl_vit.products import linear
from petl_vit.vit import FrozenViT


class Tabled(Executor):
    """Many adapters at once, looked up in an arena by number; in place, without gradients.

    Args:
        vit: The backbone.
        layout: The layout of the arena's table.
        rows: The rows' slots and alphas, and the arena's tensors.
    """

    def __init__(self, vit: FrozenViT, layout: Layout, rows: Rows) -> None:
        self.arch = vit.arch
        self.params = vit.params
        self._first = layout.first
        self._rows = rows

    def embed(self, patches: Tensor) -> Tensor:
        patches = patches.contiguous()
        kernels.affine_(patches, self._rows, self._first["patch_embed.proj"])
        return patches

    def linear(self, site: str, x: Tensor) -> Tensor:
        y, field = linear(self.params, site, x), self._first[site]
        kernels.affine_(y, self._rows, field)  # before the low-rank edits, as it reads the frozen output
        kernels.low_rank_(x, y, self._rows, field)
        return y

    def norm(self, site: str, x: Tensor) -> Tensor:
        y, field = frozen_norm(self.params, site, x, self.arch.eps), self._first[site]
        x, tokens = (x, y) if x.dim() == 3 else (x.unsqueeze(1).contiguous(), y.unsqueeze(1))
        kernels.affine_(tokens, self._rows, field)
        kernels.norm_delta_(x, tokens, self._rows, field, self.arch.eps)
        return y

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.arch.heads)
        out, sums = attention_with_sums(q, k, v)
        out = merge_heads(out).contiguous()
        field = self._first[f"blocks.{block}"]
        kernels.attend_prefix_(qkv, out, sums, self._rows, field, self.arch.heads)
        return out

    def activate(self, h: Tensor) -> Tensor:
        return activate_(self.arch.activation, h)

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        field = self._first[sublayer]
        bottlenecks = kernels.hidden(stream, normed, out, self._rows, field, self.arch.grid)
        stream = stream.add_(out)
        kernels.join_(stream, bottlenecks, self._rows, field)
        return stream


def attention_with_sums(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of [B, H, N, d], and the logarithm of each softmax's sum [B, H, N or more], contiguous."""
    aten = torch.ops.aten
    if q.is_cpu:
        out, sums = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif q.dtype == torch.float32:  # FlashAttention has no float32
        out, sums, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    else:
        out, sums, *_ = aten._scaled_dot_product_flash_attention(q, k, v)
    return out, sums.contiguous()
