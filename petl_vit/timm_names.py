"""Names of parameters that timm's ViTs differ in, in one layout: that of timm.models.vision_transformer.

There the frozen forward has one qkv linear, one linear of a gated MLP (gate first) and `ls1.gamma`. Others
have queries, keys and values, or gate and value, in tensors of their own: put one above the other they are
the same products, bit by bit. Keys without a bias have one of zeros beside queries and values with one.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from petl_vit.errors import Unsupported
from petl_vit.facts import Layout

_GAMMA = re.compile(r"(blocks\.\d+)\.gamma_([12])")
_OURS_GAMMA = re.compile(r"(blocks\.\d+)\.ls([12])\.gamma")
_APART: dict[str, tuple[str, ...]] = {
    "attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "mlp.fc1": ("mlp.fc1_g", "mlp.fc1_x"),
}
_PARTS = {part: (whole, place) for whole, parts in _APART.items() for place, part in enumerate(parts)}


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names, of tensors by any of timm's. What is incomplete keeps its name."""
    found: dict[str, Tensor] = {}
    parts: dict[tuple[str, str, str], dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        block, _, rest = _split(name)
        site, _, kind = rest.rpartition(".")
        if site in _PARTS and kind in ("weight", "bias"):
            whole, place = _PARTS[site]
            parts.setdefault((block, whole, kind), {})[place] = tensor
        elif rest in ("attn.q_bias", "attn.v_bias"):
            parts.setdefault((block, "attn.qkv", "bias"), {})[0 if rest == "attn.q_bias" else 2] = tensor
        else:
            found[_GAMMA.sub(r"\1.ls\2.gamma", name)] = tensor
    for (block, whole, kind), of_one in parts.items():
        if whole == "attn.qkv" and kind == "bias" and of_one.keys() == {0, 2}:
            of_one[1] = torch.zeros_like(of_one[0])
        if len(of_one) == len(_APART[whole]) and _stack(of_one):
            found[f"{block}.{whole}.{kind}"] = torch.cat([of_one[place] for place in sorted(of_one)])
        else:
            found |= {f"{block}.{_APART[whole][place]}.{kind}": t for place, t in of_one.items()}
    return found


def of_timm(tensors: Mapping[str, Tensor], layouts: Iterable[Layout]) -> dict[str, Tensor]:
    """Tensors by timm's names, of tensors by ours; others than a ViT's keep theirs.

    Raises:
        Unsupported: Keys have a bias, and timm's module has none for them.
    """
    found: dict[str, Tensor] = {}
    chosen = set(layouts)
    for name, tensor in tensors.items():
        block, _, rest = _split(name)
        site, _, kind = rest.rpartition(".")
        if "gamma" in chosen and _OURS_GAMMA.fullmatch(name):
            found[_OURS_GAMMA.sub(r"\1.gamma_\2", name)] = tensor
        elif site == "attn.qkv" and kind == "bias" and "q_v_bias" in chosen:
            found |= _without_keys(block, tensor, apart="q_k_v" in chosen)
        elif (site == "attn.qkv" and "q_k_v" in chosen) or (site == "mlp.fc1" and "gate_value" in chosen):
            parts = _APART[site]
            chunks = tensor.chunk(len(parts))
            found |= {f"{block}.{p}.{kind}": c.contiguous() for p, c in zip(parts, chunks, strict=True)}
        else:
            found[name] = tensor
    return found


def _without_keys(block: str, bias: Tensor, *, apart: bool) -> dict[str, Tensor]:
    queries, keys, values = (part.contiguous() for part in bias.chunk(3))
    if keys.any():
        raise Unsupported(
            f"{block}.attn.qkv has a bias of keys, and timm's module has none for them",
            field="format",
            remedy="use --format archive",
        )
    names = ("q_proj.bias", "v_proj.bias") if apart else ("q_bias", "v_bias")
    return {f"{block}.attn.{names[0]}": queries, f"{block}.attn.{names[1]}": values}


def _stack(parts: Mapping[int, Tensor]) -> bool:
    """Whether the rows of tensors can be put one after another."""
    return all(t.dim() for t in parts.values()) and len({t.shape[1:] for t in parts.values()}) == 1


def _split(name: str) -> tuple[str, str, str]:
    """`blocks.L`, a dot, and the rest; empty in front where it is no parameter of a block."""
    match = re.match(r"blocks\.\d+(?=\.)", name)
    return (match[0], ".", name[match.end() + 1 :]) if match else ("", "", name)
