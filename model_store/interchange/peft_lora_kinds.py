"""LoRA of PEFT with more than its product: DoRA's magnitudes, trained biases, starts that move the weight.

With s the scaling, B the up and A the down matrix, W and b the frozen weight and bias:
DoRA (arXiv 2402.09353): g = m / |W + s B A| by rows; g y + (1 - g) b + g s B A x.
PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775) train from W - s B0 A0, with B0 A0 made of W's largest
singular values, or of the first rows of its QR decomposition: s B A - s B0 A0, of twice the rank.
LoRA+ and LoRA-FA are ways to train, and rsLoRA is another s. Source: peft.tuners.lora (0.21).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model_store.interchange import peft_lora
from model_store.interchange.foreign import Foreign
from model_store.interchange.peft_change import Change, Module, Product, Scale, contradiction, product
from model_store.interchange.peft_folder import Tuned
from model_store.interchange.peft_names import CONFIG
from model_store.interchange.peft_type import Reading, a_type
from petl_vit.errors import Unsupported

_LARGEST = 512
"""The largest rank of the method lora."""
_MOVING = ("pissa", "olora")
_LEFT = ("corda", "loftq", "lora_ga", "pissa_niter")
"""Starts that move the frozen weight by what only the training run knew."""
_SETTINGS = (
    "r lora_alpha lora_dropout alpha_pattern rank_pattern use_rslora use_dora lora_bias init_lora_weights "
    "eva_config corda_config lora_ga_config loftq_config qalora_group_size"
)


def read(tuned: Tuned) -> Foreign:
    """The adapter of a folder of LoRA; for the method lora where it is a product alone."""
    config = tuned.folder.config
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_LEFT):
        raise Unsupported(
            f"init_lora_weights {start!r} trained from changed weights, which the folder does not tell",
            field=CONFIG,
            remedy="save it with path_initial_model_for_weight_conversion=FOLDER of the adapter as it was "
            "before training, which makes it a plain LoRA",
        )
    more = config.get("use_dora") or config.get("lora_bias") or config.get("bias", "none") != "none"
    if not more and start not in _MOVING and _is_of_lora(tuned):
        return peft_lora.read(tuned)
    title = "DoRA" if config.get("use_dora") else {"pissa": "PiSSA", "olora": "OLoRA"}.get(start, "LoRA")
    return replace(TYPE, title=title).read(tuned)


def _is_of_lora(tuned: Tuned) -> bool:
    """Whether the method lora has all of these linears, at these ranks."""
    ranks: dict[str, int] = {}
    for adapted in tuned.adapted:
        down = adapted.tensors.get("lora_A")
        site = adapted.site.module
        ranks[site] = ranks.get(site, 0) + (len(down) if down is not None and down.dim() else 0)
    pooling = any(site.startswith("attn_pool.") for site in ranks)
    return not pooling and max(ranks.values()) <= _LARGEST


def _changes(module: Module, reading: Reading) -> Sequence[Change]:
    down = module.get("lora_A", None, module.into)
    rank = len(down)
    up, scaling = module.get("lora_B", module.out, rank), _scaling(module, reading, rank)
    start = str(reading.config.get("init_lora_weights")).lower()
    low_rank, weight = product(down, up, scaling), module.weight
    if start in _MOVING:
        first = _first(weight, rank, start, scaling)
        weight = weight - (first.a @ first.b).T
    changes: list[Change] = []
    if reading.config.get("lora_bias") or "lora_B.bias" in module.tensors:
        changes.append(Scale(shift=scaling * module.get("lora_B.bias", module.out)))
    if "lora_magnitude_vector" in module.tensors:
        norm = torch.linalg.norm(weight + low_rank.of_weight(weight), dim=1)
        gain = module.get("lora_magnitude_vector", module.out) / norm
        low_rank = Product(a=low_rank.a, b=low_rank.b * gain)
        changes.append(Scale(scale=gain, shift=(1 - gain) * module.bias))
        if start in _MOVING:
            first = Product(a=first.a, b=first.b * gain)
    elif reading.config.get("use_dora"):
        raise contradiction(f"{module.path} has no lora_magnitude_vector, and use_dora is on")
    if start in _MOVING:
        low_rank = Product(a=torch.cat([low_rank.a, first.a], dim=1), b=torch.cat([low_rank.b, -first.b]))
    return [*changes, low_rank]


def _scaling(module: Module, reading: Reading, rank: int) -> float:
    said = reading.at(module, "r", "rank_pattern")
    if said != rank:
        raise contradiction(f"{module.path} has rank {rank}, the config says {said:g}")
    alpha = reading.at(module, "lora_alpha", "alpha_pattern")
    return alpha / (math.sqrt(rank) if reading.config.get("use_rslora") else rank)


def _first(weight: Tensor, rank: int, start: str, scaling: float) -> Product:
    """s B0 A0, in which PiSSA's s cancels; computed in float32, as PEFT does."""
    if start == "pissa":
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        return product(v[:rank].double(), (u[:, :rank] * s[:rank]).double())
    q, r = torch.linalg.qr(weight.float())
    return product(r[:rank].double(), q[:, :rank].double(), scaling)


TYPE = a_type("LoRA", "lora_", _SETTINGS, _changes)
