"""The references themselves, against timm, hand-folded weights and hand-written loops, without `petl_vit`."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.petl_vit.reference.linears import vera_matrix
from tests.petl_vit.references.models import (
    FOLDED,
    SCALE,
    Weights,
    assert_same,
    edited_feature,
    plain_feature,
    tensors_of,
)


def _fold_absolute(weights: Weights, tensors: Weights, depth: int) -> None:
    """BitFit, LayerNorm: the tensors are the weights."""
    weights |= tensors


def _fold_lora(weights: Weights, tensors: Weights, depth: int) -> None:
    """W_qkv += A B; torch keeps W transposed."""
    for block in range(depth):
        site = f"blocks.{block}.attn.qkv"
        weights[f"{site}.weight"] += (tensors[f"{site}.lora_a"] @ tensors[f"{site}.lora_b"]).T


def _fold_dora(weights: Weights, tensors: Weights, depth: int) -> None:
    """Each row of W_qkv + s (A B)^T at the length m."""
    for site in [name.removesuffix(".magnitude") for name in tensors if name.endswith(".magnitude")]:
        moved = weights[f"{site}.weight"] + SCALE * (tensors[f"{site}.lora_a"] @ tensors[f"{site}.lora_b"]).T
        lengths = tensors[f"{site}.magnitude"][:, None]
        weights[f"{site}.weight"] = lengths * nn.functional.normalize(moved, dim=1)


def _fold_vera(weights: Weights, tensors: Weights, depth: int) -> None:
    """W += (A diag(d) B diag(b))^T."""
    for site in [name.removesuffix(".vera_d") for name in tensors if name.endswith(".vera_d")]:
        d, b = tensors[f"{site}.vera_d"], tensors[f"{site}.vera_b"]
        out, width = weights[f"{site}.weight"].shape
        shared_a, shared_b = vera_matrix(0, 0, width, len(d)), vera_matrix(0, 1, len(d), out)
        delta = shared_a.double() @ torch.diag(d) @ shared_b.double() @ torch.diag(b)
        weights[f"{site}.weight"] += delta.T


def _fold_ia3(weights: Weights, tensors: Weights, depth: int) -> None:
    """Rows of W_k and W_v and their biases; columns of W_2."""
    for block in [f"blocks.{block}" for block in range(depth)]:
        k, v = tensors[f"{block}.attn.k.scale"], tensors[f"{block}.attn.v.scale"]
        of_qkv = torch.cat([torch.ones_like(k), k, v])
        weights[f"{block}.attn.qkv.weight"] = of_qkv[:, None] * weights[f"{block}.attn.qkv.weight"]
        if f"{block}.attn.qkv.bias" in weights:
            weights[f"{block}.attn.qkv.bias"] = of_qkv * weights[f"{block}.attn.qkv.bias"]
        weights[f"{block}.mlp.fc2.weight"] = (
            weights[f"{block}.mlp.fc2.weight"] * tensors[f"{block}.mlp.hidden.scale"]
        )


def _fold_ssf(weights: Weights, tensors: Weights, depth: int) -> None:
    """Linear: W <- W diag(c), b <- c b + d; LayerNorm: w <- c w, b <- c b + d. Output channels come first."""
    for site in [name.removesuffix(".scale") for name in tensors if name.endswith(".scale")]:
        weight, scale = weights[f"{site}.weight"], tensors[f"{site}.scale"]
        weights[f"{site}.weight"] = scale.reshape(-1, *[1] * (weight.ndim - 1)) * weight
        weights[f"{site}.bias"] = scale * weights[f"{site}.bias"] + tensors[f"{site}.shift"]


def _fold_difffit(weights: Weights, tensors: Weights, depth: int) -> None:
    """W_o <- W_o diag(g1), b_o <- g1 b_o; W_2 likewise with g2."""
    weights |= {name: tensor for name, tensor in tensors.items() if "gain" not in name}
    for block in [f"blocks.{block}" for block in range(depth)]:
        for site, gain in ((f"{block}.attn.proj", "gain1"), (f"{block}.mlp.fc2", "gain2")):
            weights[f"{site}.weight"] = tensors[f"{block}.{gain}"][:, None] * weights[f"{site}.weight"]
            weights[f"{site}.bias"] = tensors[f"{block}.{gain}"] * weights[f"{site}.bias"]


def _fold_repadapter(weights: Weights, tensors: Weights, depth: int) -> None:
    """W <- (I + s A B) W, b <- b + s (a0 B + b0) W, B block-diagonal, on the linear that follows."""
    for block in [f"blocks.{block}" for block in range(depth)]:
        for site, name in (("attn.qkv", "attn_adapter"), ("mlp.fc1", "mlp_adapter")):
            a, a0, b, b0 = (tensors[f"{block}.{name}.{part}"] for part in ("a", "a0", "b", "b0"))
            whole = torch.block_diag(*b)
            w = weights[f"{block}.{site}.weight"].T.clone()
            weights[f"{block}.{site}.weight"] = (w + SCALE * a @ whole @ w).T
            weights[f"{block}.{site}.bias"] += SCALE * (a0 @ whole + b0) @ w


def _fold_fact(weights: Weights, tensors: Weights, cores: Callable[[int, int], Tensor], depth: int) -> None:
    """Each D x D unit W += s U S V: q, k, v, o, then column chunks of W_1, then row chunks of W_2."""
    u, v = tensors["u"], tensors["v"]
    for block in range(depth):
        units = [SCALE * u @ cores(block, j) @ v for j in range(12)]
        deltas = {"attn.qkv": torch.cat(units[:3], 1), "attn.proj": units[3]}
        deltas |= {"mlp.fc1": torch.cat(units[4:8], 1), "mlp.fc2": torch.cat(units[8:], 0)}
        for site, delta in deltas.items():
            weights[f"blocks.{block}.{site}.weight"] += delta.T


def _fold_fact_tt(weights: Weights, tensors: Weights, depth: int) -> None:
    _fold_fact(weights, tensors, lambda block, unit: tensors["s"][block, unit], depth)


def _fold_fact_tk(weights: Weights, tensors: Weights, depth: int) -> None:
    c, p = tensors["c"], tensors["p"]
    _fold_fact(weights, tensors, lambda block, unit: c @ p[:, 12 * block + unit], depth)


FOLDS: dict[str, Callable[[Weights, Weights, int], None]] = {
    "bitfit": _fold_absolute,
    "layernorm": _fold_absolute,
    "lora": _fold_lora,
    "dora": _fold_dora,
    "vera": _fold_vera,
    "ia3": _fold_ia3,
    "ssf": _fold_ssf,
    "difffit": _fold_difffit,
    "repadapter": _fold_repadapter,
    "fact_tt": _fold_fact_tt,
    "fact_tk": _fold_fact_tk,
}


def _with_patch_bias(model: VisionTransformer) -> VisionTransformer:
    """A CLIP patch embedding has no bias for SSF's shift to fold into; a zero one changes nothing."""
    copied = copy.deepcopy(model)
    if copied.patch_embed.proj.bias is None:
        copied.patch_embed.proj.bias = nn.Parameter(torch.zeros(model.embed_dim, dtype=torch.float64))
    return copied


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("method", FOLDED)
def test_a_foldable_method_is_the_interpolation_to_its_folded_weights(
    method: str, alpha: float, vit: VisionTransformer
) -> None:
    tensors, plain = tensors_of(method, vit), _with_patch_bias(vit)
    frozen = plain.state_dict()
    folded = {name: weight.clone() for name, weight in frozen.items()}
    FOLDS[method](folded, tensors, len(vit.blocks))
    plain.load_state_dict({name: torch.lerp(frozen[name], folded[name], alpha) for name in frozen})
    assert_same(edited_feature(method, vit, tensors, alpha), plain_feature(plain))


@pytest.mark.parametrize("method", ["full", "selective"])
def test_absolute_weights_replace_timms_own(method: str, vit: VisionTransformer) -> None:
    tensors, tuned = tensors_of(method, vit), copy.deepcopy(vit)
    missing = tuned.load_state_dict(tensors, strict=False).missing_keys
    assert bool(missing) == (method == "selective")
    assert_same(edited_feature(method, vit, tensors), plain_feature(tuned))
