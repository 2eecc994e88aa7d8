"""LoHa and LoKr of PEFT: products of entries and of blocks.

LoHa (arXiv 2108.06098): s (B1 A1) * (B2 A2), entry by entry, is one product of r^2 columns: every column of
B1 times every one of B2. LoKr (arXiv 2309.14859): s w1 x w2, a Kronecker product, is a bottleneck of as many
parts as w1 has rows, all with the one up projection of w2, as FacT has it. Source: peft.tuners of 0.21.

Shapes: in = b d and out = a c of a module; r rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_store.interchange.peft_change import Change, Module, Product, checked
from model_store.interchange.peft_type import Reading, a_type

_SETTINGS = (
    "r alpha rank_pattern alpha_pattern rank_dropout rank_dropout_scale decompose_both decompose_factor"
)


def _scaling(module: Module, reading: Reading) -> float:
    return reading.at(module, "alpha", "alpha_pattern") / reading.at(module, "r", "rank_pattern")


def _loha(module: Module, reading: Reading) -> Sequence[Change]:
    rank = int(reading.at(module, "r", "rank_pattern"))
    downs = [module.get(f"hada_w{i}_b", rank, module.into) for i in (1, 2)]
    ups = [module.get(f"hada_w{i}_a", module.out, rank) for i in (1, 2)]
    a = torch.einsum("rn,sn->nrs", *downs).flatten(1)
    b = torch.einsum("mr,ms->rsm", *ups).flatten(0, 1)
    return [Product(a=a, b=_scaling(module, reading) * b)]


def _lokr(module: Module, reading: Reading) -> Sequence[Change]:
    outer = _factor(module, "lokr_w1")
    if "lokr_w2" in module.tensors:
        inner = module.get("lokr_w2", None, None)
        c, d = inner.shape
        ones = torch.eye(min(c, d), dtype=torch.float64)
        up, down = (ones, inner) if c <= d else (inner, ones)
    else:
        up, down = _two(module, "lokr_w2")
    (a, b), c, d = outer.shape, len(up), down.shape[1]
    checked(torch.empty(a * c, b * d), f"{module.path}.lokr_w1 x lokr_w2", module.out, module.into)
    return [Product(a=torch.kron(outer.T, down.T), b=_scaling(module, reading) * up.T)]


def _factor(module: Module, kind: str) -> Tensor:
    if kind in module.tensors:
        return module.get(kind, None, None)
    up, down = _two(module, kind)
    return up @ down


def _two(module: Module, kind: str) -> tuple[Tensor, Tensor]:
    up = module.get(f"{kind}_a", None, None)
    return up, module.get(f"{kind}_b", up.shape[1], None)


TYPES = {
    "LOHA": a_type("LoHa", "hada_", _SETTINGS, _loha),
    "LOKR": a_type("LoKr", "lokr_", _SETTINGS, _lokr),
}
"""The types, by PEFT's names."""
