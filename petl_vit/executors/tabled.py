"""Many adapters' edits by kernels that look them up by each row's slot number: for CUDA graphs.

As in `gathered`, no shape and no loop depends on which row has which adapter, so that one CUDA graph serves
every mixture; as in `sliced`, a row computes its edits and no others (`kernels`).

Shapes: B rows, N tokens, D width, H heads.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from petl_vit.arena import Layout
from petl_vit.attention import merge_heads, split_heads
from petl_vit.executor import Executor, activate_
from petl_vit.executors import kernels
from petl_vit.executors.kernels import Addition, Norm, Rows
from petl_vit.products import Params, linear, wide
from petl_vit.rotary import turn_
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

    def begin(
        self,
        patches: Tensor,
        sources: Tensor | None,
        names: Sequence[str],
        compute: Callable[[Tensor, Params], Tensor],
    ) -> Tensor:
        images, count, width = patches.shape
        sources = torch.arange(images, device=patches.device) if sources is None else sources
        dtype = wide(patches[:1, :1]).dtype
        around = compute(patches.new_zeros(1, count, width, dtype=dtype), self.params)[0]
        field = self._first["patch_embed.proj"]
        return kernels.begin(patches.contiguous(), sources, around.contiguous(), self._rows, field)

    def linear(self, site: str, x: Tensor) -> Tensor:
        y, field = linear(self.params, site, x), self._first[site]
        kernels.affine_(y, self._rows, field)  # before the low-rank edits, as it reads the frozen output
        kernels.low_rank_(x, y, self._rows, field)
        return y

    def norm(self, site: str, x: Tensor) -> Tensor:
        tokens = x if x.dim() == 3 else x.unsqueeze(1)
        return self._after(None, tokens.contiguous(), site).view(x.shape)

    def rotate(self, qkv: Tensor, cosines: Tensor, sines: Tensor, *, halves: bool) -> Tensor:
        return turn_(qkv, cosines, sines, self.arch.heads, halves=halves)

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
        return self._after(self._added(sublayer, stream, normed, out), stream, None)

    def add_norm(
        self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor, site: str
    ) -> tuple[Tensor, Tensor]:
        return stream, self._after(self._added(sublayer, stream, normed, out), stream, site)

    def _added(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Addition:
        field = self._first[sublayer]
        bottlenecks = kernels.hidden(stream, normed, out, self._rows, field, self.arch.grid)
        return Addition(out=out, bottlenecks=bottlenecks, field=field)

    def _after(self, added: Addition | None, stream: Tensor, site: str | None) -> Tensor:
        """The stream with what is added to it, in place; after the norm at a site, if there is one."""
        norm, dtype = None, stream.dtype
        if site is not None:
            weight, bias = self.params[f"{site}.weight"], self.params[f"{site}.bias"]
            norm = Norm(weight=weight, bias=bias, eps=self.arch.eps, field=self._first[site])
            dtype = self._rows.products if site.startswith("blocks.") else dtype  # a product follows
        return kernels.add_norm_(stream, self._rows, added=added, norm=norm, dtype=dtype)


def attention_with_sums(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of [B, H, N, d], and the logarithm of each softmax's sum [B, H, N or more], contiguous."""
    aten = torch.ops.aten
    if q.is_cpu:
        out, sums = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif q.dtype == torch.float32:  # the others have no float32
        out, sums, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    elif _by_cudnn(q, k, v):
        out, sums, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
        sums = sums.view(q.shape[:3])
    else:
        out, sums, *_ = aten._scaled_dot_product_flash_attention(q, k, v)
    return out, sums.contiguous()


def _by_cudnn(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether cuDNN attends here: on an H200 it takes two thirds of the time of FlashAttention 2."""
    cuda = torch.backends.cuda
    return cuda.can_use_cudnn_attention(cuda.SDPAParams(q, k, v, None, 0.0, False, False))
