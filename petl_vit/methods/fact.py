"""FacT-TT and FacT-TK in common: U and V for the whole model, a core for every D x D unit of a block.

A block has 12 units: q, k, v, o, four chunks of fc1 and four of fc2. The change of a unit with core S is
s drop(z U S) V, so at each linear it is a low-rank product with V applied to each chunk.
"""

import math

import torch
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.edits import Edit, LowRank
from petl_vit.errors import Unsupported
from petl_vit.methods.method import uniform
from petl_vit.vit import FrozenViT

UNITS = 12


def shared_shapes(arch: Architecture, rank: int) -> Shapes:
    """U and V.

    Raises:
        Unsupported: The MLP is not four times as wide as the tokens, so it does not consist of such units.
    """
    if arch.fc1_width != arch.hidden or arch.hidden != 4 * arch.width:
        raise Unsupported(
            f"FacT needs an MLP four times as wide as the tokens, {arch.name} has {_said(arch)}",
            field="method",
            remedy="use another method on this backbone",
        )
    return {"u": (arch.width, rank), "v": (rank, arch.width)}


def _said(arch: Architecture) -> str:
    widths = f"{arch.hidden}/{arch.width}"
    return widths if arch.fc1_width == arch.hidden else f"a gated one of {widths}"


def shared_init(arch: Architecture, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """U as a linear layer's default, V zero; raises as `shared_shapes` does."""
    shapes = shared_shapes(arch, rank)
    u = uniform(shapes["u"], 1 / math.sqrt(arch.width), generator)
    return {"u": u, "v": torch.zeros(shapes["v"])}


def edits(vit: FrozenViT, u: Tensor, v: Tensor, cores: Tensor, *, scale: float, dropout: float) -> list[Edit]:
    """The edits of all blocks.

    Args:
        u: [D, R]; v: [R, D].
        cores: [M, 12, R, R].
    """
    edits: list[Edit] = []
    for block in range(vit.arch.depth):
        units = scale * (u @ cores[block])  # [12, D, R]
        at = {
            "attn.qkv": units[0:3].transpose(0, 1).flatten(1),
            "attn.proj": units[3],
            "mlp.fc1": units[4:8].transpose(0, 1).flatten(1),
            "mlp.fc2": units[8:12].flatten(0, 1),
        }
        for site, a in at.items():
            edits.append(LowRank(site=f"blocks.{block}.{site}", a=a, b=v, bottleneck_dropout=dropout))
    return edits
