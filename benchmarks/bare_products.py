"""The frozen products of a forward and nothing between them: what no executor can do without.

They are the patch convolution and the four linears of every block, for all tokens of all rows; of the last
block, where only the class token is pooled, projection and MLP for that token alone, as our forward has it.
Inputs are random, of the right shape and of the products' dtype, and made once.

Shapes: B rows, N tokens, D width, M hidden width.
"""

import torch
from torch import Tensor

from petl_vit.batch import Batch
from petl_vit.products import convolution, linear

_POOLED = ("attn.proj", "mlp.fc1", "mlp.fc2")
"""Linears that the last block needs for the pooled token alone."""


class BareProducts:
    """The products of so many rows, as many at a time as a batch runs in one forward.

    Args:
        images: [B, 3, S, S].
    """

    def __init__(self, batch: Batch, images: Tensor) -> None:
        self._vit = batch.vit
        arch, dtype = batch.vit.arch, batch.vit.product_dtype
        self._images = images.to(dtype)
        tokens = arch.grid**2 + arch.prefix_tokens
        widths = {"attn.qkv": arch.width, "attn.proj": arch.width, "mlp.fc1": arch.width}
        widths["mlp.fc2"] = arch.hidden
        self._parts = [
            {name: torch.randn(len(part), tokens, width).to(dtype) for name, width in widths.items()}
            for part in (images[run] for run in batch.parts(len(images)))
        ]

    @torch.inference_mode()
    def run(self) -> None:
        """All of them, one after the other; the results are dropped."""
        arch, params = self._vit.arch, self._vit.params
        convolution(params, "patch_embed.proj", self._images, arch.patch_size)
        for inputs in self._parts:
            for block in range(arch.depth):
                last = block + 1 == arch.depth and arch.pool == "token"
                for name, x in inputs.items():
                    pooled = last and name in _POOLED
                    linear(params, f"blocks.{block}.{name}", x[:, :1].contiguous() if pooled else x)
