"""VeRA: LoRA with random matrices that stay as they are, and trained vectors (arXiv 2310.11454).

delta = drop(x) A diag(d) B diag(b). All A of one input width are the same, and all B of one output width.
They are drawn from the setting `projection_seed`, kaiming-uniform, by NumPy's PCG64, whose bits are the same
in every version; an adapter stores d and b alone. d starts at 0.1, b at zero, and both take ten times LoRA's
learning rate, as in the paper. LoRA's targets. In memory, and in a forward with other adapters, it takes what
a LoRA of its rank takes.
Parameters: M (r + 3D) for qkv; ViT-B/16 r=256 30,720.
"""

import math
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit, LowRank
from petl_vit.methods.method import Method, Tensors
from petl_vit.methods.targets import Targets, sites
from petl_vit.vit import FrozenViT

_A, _B = 0, 1
"""Which of the two matrices a stream of random numbers is for."""


class VeRA(Method):
    """Vectors that scale fixed random projections."""

    name: ClassVar[str] = "vera"
    title: ClassVar[str] = "VeRA"
    paper: ClassVar[str] = "arXiv 2310.11454"
    foldable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-2

    rank: int = Field(default=256, ge=1, le=4096, description="rank of the random matrices")
    projection_seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the random matrices")
    d_initial: float = Field(default=0.1, gt=0, le=100, description="where the vector between them starts")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout on the input, in training")
    targets: Targets = ("qkv",)

    def shapes(self, arch: Architecture) -> Shapes:
        shapes: Shapes = {}
        for site, (_, out) in sites(arch, self.targets).items():
            shapes[f"{site}.vera_d"] = (self.rank,)
            shapes[f"{site}.vera_b"] = (out,)
        return shapes

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: torch.full(shape, self.d_initial if name.endswith("vera_d") else 0.0)
            for name, shape in self.shapes(vit.arch).items()
        }

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        edits: list[Edit] = []
        for site, (into, out) in sites(vit.arch, self.targets).items():
            d, b = tensors[f"{site}.vera_d"], tensors[f"{site}.vera_b"]
            down = _fixed(self.projection_seed, _A, (into, self.rank), d.device, d.dtype)
            up = _fixed(self.projection_seed, _B, (self.rank, out), b.device, b.dtype)
            edits.append(LowRank(site=site, a=down * d, b=up * b, dropout=self.dropout))
        return edits


@lru_cache(maxsize=8)  # at most two matrices for each target of one adapter in training
@torch.inference_mode(mode=False)  # training may come to use what serving drew
def _fixed(seed: int, which: int, shape: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """U(-b, b) in float32 with b = sqrt(6 / rows), the same everywhere: from the upper 53 bits of each 64.

    Not from NumPy's own `uniform`, as NumPy promises that only a generator's bits stay the same.
    """
    bits = np.random.PCG64([seed, which, *shape]).random_raw(math.prod(shape))
    unit = (bits >> np.uint64(11)) * 2.0**-53
    numbers = (math.sqrt(6 / shape[0]) * (2 * unit - 1)).astype(np.float32).reshape(shape)
    return torch.from_numpy(numbers).to(device=device, dtype=dtype)
