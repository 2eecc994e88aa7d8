"""DiffFit: all biases, all LayerNorms, and a gain on every sublayer's output (arXiv 2304.06648).

X += g1 * DP(LS(Attn(LN1 X))), X += g2 * DP(LS(MLP(LN2 X))), gains from 1. A gain is a scale of the
sublayer's last linear, because it commutes with LayerScale and drop path; at alpha it follows the folded
rule (the published script interpolates gain and bias apart, which differs by alpha (1 - alpha) (g - 1) db).
Parameters: BitFit's + LayerNorm weights + 2 M D; ViT-B/16 140,544.
"""

from typing import ClassVar

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Affine, Edit
from petl_vit.methods.bitfit import BitFit
from petl_vit.methods.layernorm import LayerNorm, norm_deltas
from petl_vit.methods.method import Method, Tensors, trained
from petl_vit.vit import FrozenViT

_GAINS = {"gain1": "attn.proj", "gain2": "mlp.fc2"}


class DiffFit(Method):
    """Biases, norms and gains."""

    name: ClassVar[str] = "difffit"
    title: ClassVar[str] = "DiffFit"
    paper: ClassVar[str] = "arXiv 2304.06648"
    foldable: ClassVar[bool] = True

    def shapes(self, arch: Architecture) -> Shapes:
        norms = LayerNorm().shapes(arch)
        gains = {f"blocks.{i}.{gain}": (arch.width,) for i in range(arch.depth) for gain in _GAINS}
        return BitFit().shapes(arch) | norms | gains

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        shapes = self.shapes(vit.arch)
        return {n: vit.params[n].clone() if n in vit.params else torch.ones(s) for n, s in shapes.items()}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        edits = norm_deltas(vit, tensors)
        gains = {
            f"blocks.{i}.{site}": tensors[f"blocks.{i}.{gain}"]
            for i in range(vit.arch.depth)
            for gain, site in _GAINS.items()
        }
        linears = [
            name for name in BitFit().shapes(vit.arch) if name.removesuffix(".bias") not in vit.arch.norms
        ]
        for name in linears:
            site = name.removesuffix(".bias")
            gain, shift = gains.pop(site, None), trained(vit.arch, name, tensors[name]) - vit.params[name]
            edits.append(Affine(site=site, scale=gain, shift=shift if gain is None else gain * shift))
        return edits + [Affine(site=site, scale=gain) for site, gain in gains.items()]
