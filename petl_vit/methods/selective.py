"""Selective tuning: chosen parts of chosen blocks are trained, from their pre-trained values.

`part` is the attention (qkv, proj or both), the MLP (fc1, fc2 or both) or the whole block; `blocks` are
indices from 0, exactly those. Parameters: theirs; ViT-B/16 block 11 whole 7,087,872.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, field_validator
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Dense, Edit
from petl_vit.errors import InvalidInput
from petl_vit.methods.method import Method, Tensors, trained
from petl_vit.vit import FrozenViT

_PARTS = {
    "attn": "attn.",
    "qkv": "attn.qkv.",
    "proj": "attn.proj.",
    "mlp": "mlp.",
    "fc1": "mlp.fc1.",
    "fc2": "mlp.fc2.",
    "block": "",
}


class Selective(Method):
    """Chosen parts of chosen blocks."""

    name: ClassVar[str] = "selective"
    title: ClassVar[str] = "selective tuning"
    paper: ClassVar[str] = "-"
    foldable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 5e-5
    faster_if_short: ClassVar[bool] = False

    part: Literal["attn", "qkv", "proj", "mlp", "fc1", "fc2", "block"] = Field(
        default="block", description="attn, qkv, proj, mlp, fc1, fc2 or block (all of it)"
    )
    blocks: tuple[NonNegativeInt, ...] = Field(
        default=(), description="block indices such as 10,11; none means the last block"
    )

    @field_validator("blocks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """The command line's `10,11`."""
        return tuple(part for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def shapes(self, arch: Architecture) -> Shapes:
        blocks = self.blocks or (arch.depth - 1,)
        if max(blocks) >= arch.depth:
            raise InvalidInput(
                f"there is no block {max(blocks)}, {arch.name} has {arch.depth}",
                field="selective.blocks",
                remedy=f"use indices from 0 to {arch.depth - 1}",
            )
        prefixes = tuple(f"blocks.{block}.{_PARTS[self.part]}" for block in blocks)
        return {name: shape for name, shape in arch.shapes.items() if name.startswith(prefixes)}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: vit.params[name].clone() for name in self.shapes(vit.arch)}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [Dense(name=name, tensor=trained(vit.arch, name, tensor)) for name, tensor in tensors.items()]
