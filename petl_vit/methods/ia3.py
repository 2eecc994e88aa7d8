"""IA3: a trained scale of keys, of values and of the MLP's hidden units (arXiv 2205.05638).

k = l_k * (z W_k + b_k), v alike; MLP(z) = (l * act(z W_1 + b_1)) W_2 + b_2, of a gated MLP after the gate.
Queries, and the outputs of the attention's projection, fc1 and fc2, can be targets too. All start at 1.
Parameters: M (2 D + 4 D) for k, v and hidden; ViT-B/16 55,296.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Affine, Edit, Input
from petl_vit.methods.method import Method, Tensors
from petl_vit.methods.targets import split
from petl_vit.vit import FrozenViT

_QKV = ("q", "k", "v")
_OUTPUTS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_HIDDEN = "hidden"


class IA3(Method):
    """Scales of keys, values and hidden units."""

    name: ClassVar[str] = "ia3"
    title: ClassVar[str] = "IA3"
    paper: ClassVar[str] = "arXiv 2205.05638"
    foldable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-2

    targets: Annotated[
        tuple[Literal["q", "k", "v", "proj", "fc1", "fc2", "hidden"], ...],
        BeforeValidator(split),
        Field(
            min_length=1,
            description="what a block scales: q, k, v, proj, fc1, fc2 are outputs, hidden is what fc2 takes",
        ),
    ] = ("k", "v", "hidden")

    def shapes(self, arch: Architecture) -> Shapes:
        widths = {
            **{f"attn.{part}": arch.width for part in _QKV},
            "attn.proj": arch.width,
            "mlp.fc1": arch.fc1_width,
            "mlp.fc2": arch.width,
            "mlp.hidden": arch.hidden,
        }
        chosen = [name for name in widths if name.partition(".")[2] in self.targets]
        return {f"blocks.{i}.{name}.scale": (widths[name],) for i in range(arch.depth) for name in chosen}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.ones(shape) for name, shape in self.shapes(vit.arch).items()}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        edits: list[Edit] = []
        for block in (f"blocks.{i}" for i in range(vit.arch.depth)):
            if not set(_QKV).isdisjoint(self.targets):
                parts = [tensors.get(f"{block}.attn.{part}.scale") for part in _QKV]
                own = next(part for part in parts if part is not None)
                scale = torch.cat([torch.ones_like(own) if part is None else part for part in parts])
                edits.append(Affine(site=f"{block}.attn.qkv", scale=scale))
            edits += [
                Affine(site=f"{block}.{site}", scale=tensors[f"{block}.{site}.scale"])
                for target, site in _OUTPUTS.items()
                if target in self.targets
            ]
            if _HIDDEN in self.targets:
                diagonal = tensors[f"{block}.mlp.hidden.scale"] - 1
                edits.append(Input(site=f"{block}.mlp.fc2", diagonal=diagonal))
        return edits
