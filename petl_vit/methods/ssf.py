"""SSF: a trained scale and shift after every operation, y = c * x + d (arXiv 2210.08823).

After the patch embedding, both LayerNorms, qkv, the attention projection, fc1 (before GELU), fc2 and
the final LayerNorm. c ~ N(1, 0.02), d ~ N(0, 0.02) at the start, so it does not start as the identity.
Parameters: 2 (D + M (11 D) + D); ViT-B/16 205,824.
"""

from typing import ClassVar

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Affine, Edit
from petl_vit.methods.method import Method, Tensors, linear_sites
from petl_vit.vit import FrozenViT


def _sites(arch: Architecture) -> dict[str, int]:
    norms = dict.fromkeys((norm for norm in arch.norms if norm != "norm_pre"), arch.width)
    return {"patch_embed.proj": arch.width} | norms | linear_sites(arch)


class SSF(Method):
    """Scaling and shifting the features."""

    name: ClassVar[str] = "ssf"
    title: ClassVar[str] = "SSF"
    paper: ClassVar[str] = "arXiv 2210.08823"
    foldable: ClassVar[bool] = True

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        return {f"{site}.{kind}": (w,) for site, w in _sites(arch).items() for kind in ("scale", "shift")}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: torch.empty(shape).normal_(float(name.endswith(".scale")), 0.02, generator=generator)
            for name, shape in self.shapes(vit.arch).items()
        }

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        return [
            Affine(site=site, scale=tensors[f"{site}.scale"], shift=tensors[f"{site}.shift"])
            for site in _sites(vit.arch)
        ]
