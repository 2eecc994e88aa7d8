"""VPT-Shallow: trained prompts in front of the first block, carried through all (arXiv 2203.12119).

Prompts start as U(-v, v) with v = sqrt(6 / (3 p^2 + D)) for patch size p, have no position, not even a rotary
one, and are dropped before the final norm. As keys their unnormalised attention weight is multiplied by alpha
(ours).
Parameters: n D; ViT-B/16 n=50 38,400.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.prompts import Tokens
from petl_vit.vit import FrozenViT


class VPTShallow(Method):
    """Visual prompts at the input."""

    name: ClassVar[str] = "vpt_shallow"
    title: ClassVar[str] = "VPT-Shallow"
    paper: ClassVar[str] = "arXiv 2203.12119"
    foldable: ClassVar[bool] = False
    by_block: ClassVar[bool] = False

    prompts: int = Field(default=50, ge=1, le=1024, description="number of prompts")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout on the prompts, in training")
    mask: Literal["row", "batch"] = Field(
        default="row",
        description="dropout's mask: one for each image, or one for the batch, as the study had",
    )

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        return {"prompts": (self.prompts, arch.width)}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        bound = math.sqrt(6 / (3 * vit.arch.patch_size**2 + vit.arch.width))
        return {"prompts": uniform((self.prompts, vit.arch.width), bound, generator)}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        one_mask = self.mask == "batch"
        return [Tokens(prompts=tensors["prompts"], dropout=self.dropout, one_mask=one_mask)]
