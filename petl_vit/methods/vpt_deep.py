"""VPT-Deep: trained prompts in front of every block, their outputs dropped after it (arXiv 2203.12119).

A prompt whose output is dropped acts only as one more key and value, LN1(P) W_k and LN1(P) W_v with
the frozen weights: exact, without extra tokens in the MLP. Prompts have no position: where a backbone has
rotary ones, their keys are not turned, as the class token's is not. Prompts start as U(-v, v) with
v = sqrt(6 / (3 p^2 + D)) for patch size p, so it does not start as the identity.
Parameters: M n D; ViT-B/16 n=50 460,800.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.products import part_of_linear
from petl_vit.prompts import Prefix
from petl_vit.vit import FrozenViT


class VPTDeep(Method):
    """Visual prompts in every block."""

    name: ClassVar[str] = "vpt_deep"
    title: ClassVar[str] = "VPT-Deep"
    paper: ClassVar[str] = "arXiv 2203.12119"
    foldable: ClassVar[bool] = False

    prompts: int = Field(default=50, ge=1, le=1024, description="prompts in each block")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout on the prompts, in training")
    mask: Literal["row", "batch"] = Field(
        default="row",
        description="dropout's mask: one for each image, or one for the batch, as the study had",
    )

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        return {f"blocks.{block}.prompts": (self.prompts, arch.width) for block in range(arch.depth)}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        bound = math.sqrt(6 / (3 * vit.arch.patch_size**2 + vit.arch.width))
        return {name: uniform(shape, bound, generator) for name, shape in self.shapes(vit.arch).items()}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [
            Prefix(
                block=block,
                prompts=tensors[f"blocks.{block}.prompts"],
                project=_Projection(vit, block),
                dropout=self.dropout,
                one_mask=self.mask == "batch",
            )
            for block in range(vit.arch.depth)
        ]


class _Projection:
    """Maps tokens [B, n, D] to their keys and values [B, H, n, d] in a frozen block."""

    def __init__(self, vit: FrozenViT, block: int) -> None:
        self._params, self._arch, self._block = vit.params, vit.arch, f"blocks.{block}"

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        params, arch, block = self._params, self._arch, self._block
        norm = (params[f"{block}.norm1.weight"], params[f"{block}.norm1.bias"])
        z = F.layer_norm(tokens, (arch.width,), *norm, arch.eps)
        kv = part_of_linear(params, f"{block}.attn.qkv", z, slice(arch.width, None))
        k, v = kv.unflatten(-1, (2, arch.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return k, v
