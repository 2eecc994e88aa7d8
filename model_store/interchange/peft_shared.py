"""Types of PEFT whose modules share tensors: VeRA, RandLoRA, VB-LoRA and TinyLoRA.

VeRA (arXiv 2310.11454): d_b B d_d A with one pair A, B for all modules, each taking its corner of it.
RandLoRA (arXiv 2502.00987): sum_i B_i l_i A_i g_i with shared random bases A_i and B_i; of full rank.
VB-LoRA (arXiv 2405.15179): A and B put together from the vectors of one bank, k of them mixed at each place.
TinyLoRA: B R A with the singular vectors of W and R = sum_i v_i P_i, P random, v shared between modules.
What a folder leaves out, PEFT draws again from a seed; so do we where that gives the same numbers anywhere.
Source: peft.tuners of 0.21.

Shapes: in and out of a module, r rank.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model_store.interchange.peft_change import Change, Module, checked, contradiction, product
from model_store.interchange.peft_names import CONFIG
from model_store.interchange.peft_type import Reading, a_type
from petl_vit.errors import Unsupported


def _vera(module: Module, reading: Reading) -> Sequence[Change]:
    inner = module.get("vera_lambda_d", None)
    outer = module.get("vera_lambda_b", module.out)
    down, up = _pair(reading, "vera", len(inner))
    down = checked(down[:, : module.into], "vera_A", len(inner), module.into)
    up = checked(up[: module.out], "vera_B", module.out, len(inner))
    return [product(inner.unsqueeze(1) * down, outer.unsqueeze(1) * up)]


def _pair(reading: Reading, name: str, rank: int) -> tuple[Tensor, Tensor]:
    """The shared A [r, largest in] and B [largest out, r], drawn where the folder has none."""
    down, up = (_shared(reading, f"{name}_{letter}") for letter in "AB")
    if down is not None and up is not None:
        return checked(down, f"{name}_A", rank, None), checked(up, f"{name}_B", None, rank)
    seed = int(reading.number("projection_prng_key"))
    generator = torch.Generator().manual_seed(seed)
    into, out = (max(getattr(m, side) for m in reading.modules) for side in ("into", "out"))
    bounds = (math.sqrt(6 / fan) for fan in (into, rank))
    down, up = (
        torch.empty(shape).uniform_(-bound, bound, generator=generator).double()
        for shape, bound in zip(((rank, into), (out, rank)), bounds, strict=True)
    )
    return down, up


def _shared(reading: Reading, name: str) -> Tensor | None:
    found = [t for key, t in reading.shared.items() if f".{name}." in f".{key}."]
    return found[0] if found else None


def _randlora(module: Module, reading: Reading) -> Sequence[Change]:
    down, up = _shared(reading, "randlora_A"), _shared(reading, "randlora_B")
    if down is None or up is None:
        raise Unsupported(
            "it leaves out its random bases, whose precision depends on the machine that drew them",
            field=CONFIG,
            remedy="save it with save_projection=True",
        )
    lambdas = module.get("randlora_lambda", None, None)
    rank, bases = lambdas.shape
    small, large = sorted((module.into, module.out))
    gammas = module.get("randlora_gamma", bases, small)
    down = checked(down[..., :small].expand(-1, bases, -1), "randlora_A", rank, bases, small)
    up = checked(up[:large, :bases], "randlora_B", large, bases, rank)
    # PEFT flattens B's [bases, r] and A's [r, bases] in these orders.
    scaled = (down * lambdas.unsqueeze(-1) * gammas).flatten(end_dim=1)
    flat, scaling = up.flatten(start_dim=1), reading.number("randlora_alpha") / rank
    if small == module.into:
        return [product(scaled, flat, scaling)]
    return [product(flat.T, scaled.T, scaling)]


def _vblora(module: Module, reading: Reading) -> Sequence[Change]:
    bank, count = _shared(reading, "vblora_vector_bank"), int(reading.number("topk"))
    if bank is None:
        raise contradiction("it has no vblora_vector_bank")
    checked(bank, "vblora_vector_bank", None, None)
    down = _mixed(module, "vblora_logits_A", bank, count)
    up = _mixed(module, "vblora_logits_B", bank, count)
    rank = len(down)
    down, up = down.reshape(rank, -1), up.transpose(1, 2).reshape(-1, rank)
    return [
        product(
            checked(down, "vblora_logits_A", rank, module.into),
            checked(up, "vblora_logits_B", module.out, rank),
        )
    ]


def _mixed(module: Module, kind: str, bank: Tensor, count: int) -> Tensor:
    """[a, b, length]: at each place the vectors with the largest logits, mixed by their softmax."""
    if f"{kind}_topk_indices" in module.tensors:
        index = module.get(f"{kind}_topk_indices", None, None, count).long()
        weights = module.get(f"{kind}_topk_weights", *index.shape[:2], count - 1)
        weights = torch.cat([weights, 1 - weights.sum(dim=-1, keepdim=True)], dim=-1)
    else:
        logits, index = module.get(kind, None, None, len(bank)).topk(count, dim=-1)
        weights = logits.softmax(dim=-1)
    if index.numel() and int(index.max()) >= len(bank):
        raise contradiction(f"{module.path}.{kind} means a vector that the bank lacks")
    return (weights.unsqueeze(-1) * bank[index]).sum(dim=-2)


def _tinylora(module: Module, reading: Reading) -> Sequence[Change]:
    down = module.get("tinylora_A", None, module.into)
    rank = len(down)
    up = module.get("tinylora_B", module.out, rank)
    vectors = {
        name.rpartition(".")[2]: t for name, t in reading.shared.items() if ".tinylora_v." in f".{name}"
    }
    named_as_timm = all(m.site.part is None and m.site.module.startswith("blocks.") for m in reading.modules)
    ordered = len(vectors) == 1 and "tinylora_P" in module.tensors
    if not (named_as_timm or ordered):
        raise Unsupported(
            "which of its vectors and projections are a module's depends on the order of the modules",
            field=CONFIG,
            remedy="train it with weight_tying=1.0 and save_projection=True",
        )
    place = sorted(reading.modules, key=_order).index(module)
    groups = max(1, len(vectors))
    key = str(min(place // max(1, len(reading.modules) // groups), groups - 1))
    if key not in vectors:
        raise contradiction(f"it has no tinylora_v.{key}")
    vector = checked(vectors[key], f"tinylora_v.{key}", None)
    if "tinylora_P" in module.tensors:
        projections = module.get("tinylora_P", len(vector), rank, rank)
    else:
        seed = int(reading.number("projection_seed")) + place
        drawn = torch.normal(
            0.0, rank**-0.5, (len(vector), rank, rank), generator=torch.Generator().manual_seed(seed)
        )
        projections = drawn.double()
    mixed = torch.einsum("i,ijk->jk", vector, projections)
    return [product(mixed @ down, up)]


_LINEARS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def _order(module: Module) -> tuple[int, int]:
    """The place of a module in timm's ViT."""
    _, block, name = module.site.module.split(".", 2)
    return int(block), _LINEARS.index(name)


TYPES = {
    "VERA": a_type(
        "VeRA",
        "vera_",
        "r projection_prng_key save_projection vera_dropout d_initial",
        _vera,
        shared="base_model.vera_",
    ),
    "RANDLORA": a_type(
        "RandLoRA",
        "randlora_",
        "r projection_prng_key save_projection sparse very_sparse randlora_dropout randlora_alpha",
        _randlora,
        shared="base_model.randlora_",
    ),
    "VBLORA": a_type(
        "VB-LoRA",
        "vblora_",
        "r num_vectors vector_length topk save_only_topk_weights vblora_dropout init_vector_bank_bound "
        "init_logits_std",
        _vblora,
        shared="base_model.vblora_",
    ),
    "TINYLORA": a_type(
        "TinyLoRA",
        "tinylora_",
        "r u weight_tying projection_seed save_projection init_v_bound tinylora_dropout",
        _tinylora,
        shared="base_model.tinylora_",
    ),
}
"""The types, by PEFT's names."""
