"""DoRA: LoRA on the direction of the weights, and a magnitude of every output (arXiv 2402.09353).

W' = m (W + s (A B)^T) / c; c is the norm of each output's row of W + s (A B)^T, and a constant for the
gradient (section 4.3). The frozen bias stays as it is. A is kaiming-uniform (a = sqrt 5), B zero, m the norms
of W's rows. Dropout is on the input of A B alone; PEFT has it on that of (m / c - 1) W too. LoRA's targets.
Parameters: M (r (D + 3D) + 3D) for qkv; ViT-B/16 r=8 322,560.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Affine, Edit, LowRank
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.methods.targets import Targets, sites
from petl_vit.products import dense
from petl_vit.vit import FrozenViT


class DoRA(Method):
    """Low-rank adaptation of directions, with magnitudes apart."""

    name: ClassVar[str] = "dora"
    title: ClassVar[str] = "DoRA"
    paper: ClassVar[str] = "arXiv 2402.09353"
    foldable: ClassVar[bool] = True

    rank: int = Field(default=8, ge=1, le=512, description="rank of the update")
    scale: float = Field(default=1.0, gt=0, le=1000, description="factor on the low-rank product")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout on the product's input, in training")
    targets: Targets = ("qkv",)

    def shapes(self, arch: Architecture) -> Shapes:
        shapes: Shapes = {}
        for site, (into, out) in sites(arch, self.targets).items():
            shapes[f"{site}.lora_a"] = (into, self.rank)
            shapes[f"{site}.lora_b"] = (self.rank, out)
            shapes[f"{site}.magnitude"] = (out,)
        return shapes

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for site, (into, out) in sites(vit.arch, self.targets).items():
            tensors[f"{site}.lora_a"] = uniform((into, self.rank), into**-0.5, generator)
            tensors[f"{site}.lora_b"] = torch.zeros(self.rank, out)
            tensors[f"{site}.magnitude"] = _norms(vit.params[f"{site}.weight"])
        return tensors

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        edits: list[Edit] = []
        for site in sites(vit.arch, self.targets):
            a, b = tensors[f"{site}.lora_a"], self.scale * tensors[f"{site}.lora_b"]
            gain = tensors[f"{site}.magnitude"] / self._constants(vit, site, a, b)
            bias = vit.params.get(f"{site}.bias")
            shift = None if bias is None else (1 - gain) * dense(bias)
            edits.append(Affine(site=site, scale=gain, shift=shift))
            edits.append(LowRank(site=site, a=a, b=gain * b, dropout=self.dropout))
        return edits

    @torch.no_grad()
    def _constants(self, vit: FrozenViT, site: str, a: Tensor, b: Tensor) -> Tensor:
        """[W]: the norms of the changed directions, 1 where an output has none."""
        norms = _norms(dense(vit.params[f"{site}.weight"]) + (a @ b).T)
        return torch.where(norms > 0, norms, 1.0)


def _norms(weight: Tensor) -> Tensor:
    """[W, in] -> [W]"""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return norms
