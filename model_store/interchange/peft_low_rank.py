"""Types of PEFT that are a product of narrow matrices, each with its own way to make them.

With B [out, r] and A [r, in] (P and Q in the paper of AdaLoRA), s a scaling, W the frozen weight:
AdaLoRA (arXiv 2303.10512): s B E A / (r_0 + 1e-5), E diagonal, r_0 the rank that training started with.
DeLoRA (arXiv 2503.18225): (lambda / r) sum_i b_i a_i^T / (|b_i| |a_i|), times the norms of W's columns.
MiSS (arXiv 2409.15371): D sums the input over shards of r: A is 0 or 1; "bat" is a change of W by blocks.
GraLoRA (arXiv 2505.20355): k x k blocks with products of their own, of rank r / k.
Source: peft.tuners of 0.21.

Shapes: r columns, k blocks a side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_store.interchange.peft_change import Change, Module, Product, Whole, contradiction, product
from model_store.interchange.peft_type import Reading, a_type

_EPSILON = 1e-5  # of AdaLoRA's rank
_SMALLEST_NORM = 1e-4  # of DeLoRA's


def _adalora(module: Module, reading: Reading) -> Sequence[Change]:
    down = module.get("lora_A", None, module.into)
    rank = len(down)
    values, up = module.get("lora_E", rank, 1), module.get("lora_B", module.out, rank)
    if not rank:
        return []
    first, alpha = reading.number("init_r"), reading.number("lora_alpha")
    if rank != first and not reading.config.get("rank_pattern"):
        raise contradiction(f"{module.path} has rank {rank}, the config says {first:g}")
    return [product(down * values, up, (alpha if alpha > 0 else rank) / (first + _EPSILON))]


def _delora(module: Module, reading: Reading) -> Sequence[Change]:
    down = module.get("delora_A", None, module.into)
    up = module.get("delora_B", module.out, len(down))
    bound = module.get("delora_lambda", 1) / len(down)
    norms = (
        module.get("delora_w_norm", module.into)
        if "delora_w_norm" in module.tensors
        else torch.linalg.norm(module.weight, dim=0)
    )
    lengths = down.norm(dim=1).clamp(min=_SMALLEST_NORM) * up.norm(dim=0).clamp(min=_SMALLEST_NORM)
    return [product(down * norms, up * (bound / lengths))]


def _miss(module: Module, reading: Reading) -> Sequence[Change]:
    start = reading.config.get("init_weights", True)
    if start == "bat":
        return [Whole(delta=_by_blocks(module))]
    shards = module.get("miss_block", None, None)
    if start == "mini":
        shards = shards.repeat(1, module.out // max(1, shards.shape[1]))
    rank = len(shards)
    shards = _fitting(shards, module)
    sums = torch.zeros(module.into, rank, dtype=torch.float64)
    columns = torch.arange(module.into)
    sums[columns, columns % rank] = 1
    return [Product(a=sums, b=shards)]


def _fitting(shards: Tensor, module: Module) -> Tensor:
    if shards.shape[1] != module.out or not 0 < len(shards) <= module.into:
        raise contradiction(f"{module.path}.miss_block does not fit a linear of {module.out}")
    return shards


def _by_blocks(module: Module) -> Tensor:
    """W' D + D by blocks of r x r, W' being a row of blocks of W."""
    shards = module.get("miss_block", None, None, None)
    r = shards.shape[-1]
    if module.into % r or len(shards) * r != module.out:
        raise contradiction(f"{module.path}.miss_block does not fit a linear of {module.out}")
    blocks = module.weight.reshape(module.out // r, r, module.into // r, r).permute(2, 0, 1, 3)
    return (blocks @ shards + shards).permute(1, 2, 0, 3).reshape(module.weight.shape)


def _gralora(module: Module, reading: Reading) -> Sequence[Change]:
    k, r, hybrid = (int(reading.number(name)) for name in ("gralora_k", "r", "hybrid_r"))
    if k < 1 or module.into % k or module.out % k or r % k:
        raise contradiction(f"gralora_k {k} does not divide {module.path} or its rank {r}")
    scaling = reading.number("alpha") / (r + hybrid)
    down = module.get("gralora_A", k, module.into // k, r)
    up = module.get("gralora_B", k, r, module.out // k)
    # Block j of the outputs takes r / k columns of every block of inputs: the j-th of its shares.
    of_outputs = [torch.block_diag(*share) for share in down.chunk(k, dim=2)]
    a, b = torch.cat(of_outputs, dim=1), torch.block_diag(*up)
    changes = [Product(a=a, b=scaling * b)]
    if hybrid:
        whole = module.get("gralora_A_general", hybrid, module.into)
        changes.append(product(whole, module.get("gralora_B_general", module.out, hybrid), scaling))
    return changes


TYPES = {
    "ADALORA": a_type(
        "AdaLoRA",
        "lora_",
        "r target_r init_r tinit tfinal deltaT beta1 beta2 orth_reg_weight total_step rank_pattern "
        "lora_alpha lora_dropout init_lora_weights qalora_group_size",
        _adalora,
    ),
    "DELORA": a_type("DeLoRA", "delora_", "r delora_lambda rank_pattern lambda_pattern", _delora),
    "MISS": a_type("MiSS", "miss_", "r mini_r miss_dropout", _miss),
    "GRALORA": a_type("GraLoRA", "gralora_", "r hybrid_r alpha gralora_k gralora_dropout", _gralora),
}
"""The types, by PEFT's names."""
