"""The references themselves, against timm, hand-folded weights and hand-written loops, without `petl_vit`."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.petl_vit import reference

METHODS: list[str] = list(reference.REFERENCES)
PROMPTED = ("vpt_deep", "vpt_shallow")
BRANCHED = ("adaptformer", "pfeiffer", "houlsby", "convpass")
FOLDED = ("lora", "ssf", "bitfit", "layernorm", "difffit", "fact_tt", "fact_tk", "repadapter")
SCALE = 0.7
NARROW = {"embed_dim": 48, "num_heads": 3}
SHORT = NARROW | {"depth": 3}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": (32, 48), **NARROW}),
    "mean_pooled": ("vit_tiny_patch16_224", {"img_size": 48, "global_pool": "avg", **SHORT}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {"img_size": 48, **SHORT}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"img_size": 42, **SHORT}),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def vit(request: pytest.FixtureRequest) -> VisionTransformer:
    return _create(request.param)


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def unlike(request: pytest.FixtureRequest) -> VisionTransformer:
    """The two architectures that between them have every kind of part."""
    return _create(request.param)


@pytest.fixture(scope="module")
def small() -> VisionTransformer:
    return _create("mean_pooled")


def _create(key: str) -> VisionTransformer:
    """Seeded, float64, and with no parameter at a neutral value that could hide a mistake."""
    name, options = ARCHITECTURES[key]
    model = timm.create_model(name, num_classes=0, **options).double().eval().requires_grad_(False)
    assert isinstance(model, VisionTransformer)
    noise = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
    return model


def _images(model: VisionTransformer) -> Tensor:
    size = model.patch_embed.img_size
    assert size is not None
    return torch.randn(2, 3, *size, generator=Generator().manual_seed(2), dtype=torch.float64)


def _tensors(method: str, model: VisionTransformer, seed: int = 3) -> dict[str, Tensor]:
    generator = Generator().manual_seed(seed)
    return reference.random_tensors(method, model, generator, torch.float64, rank=4, prompts=3)


def _plain(model: VisionTransformer) -> Tensor:
    """timm's own pooled feature."""
    return model.forward_head(model.forward_features(_images(model)), pre_logits=True)


def _edited(
    method: str,
    model: VisionTransformer,
    tensors: dict[str, Tensor],
    alpha: float = 1.0,
    scale: float = SCALE,
) -> Tensor:
    built = reference.REFERENCES[method](model, tensors, {"scale": scale}, alpha)
    feature: Tensor = built(_images(model))
    return feature


def _assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


# every method


@pytest.mark.parametrize("method", METHODS)
def test_alpha_zero_is_the_frozen_model(method: str, unlike: VisionTransformer) -> None:
    feature = _edited(method, unlike, _tensors(method, unlike), alpha=0.0)
    torch.testing.assert_close(feature, _plain(unlike), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "linear"])
def test_alpha_one_changes_the_feature_visibly_and_stays_finite(
    method: str, unlike: VisionTransformer
) -> None:
    frozen, feature = _plain(unlike), _edited(method, unlike, _tensors(method, unlike))
    assert feature.shape == (2, unlike.embed_dim)
    change = (feature - frozen).norm() / frozen.norm()
    assert 0.01 < change < 10


@pytest.mark.parametrize("method", METHODS)
def test_the_given_model_is_left_as_it_was(method: str, small: VisionTransformer) -> None:
    before = copy.deepcopy(small.state_dict())
    _edited(method, small, _tensors(method, small))
    after = small.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "linear"])
def test_every_tensor_receives_a_gradient(method: str, small: VisionTransformer) -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in _tensors(method, small).items()}
    _edited(method, small, tensors, alpha=0.5).square().sum().backward()
    still = [name for name, tensor in tensors.items() if tensor.grad is None or not tensor.grad.any()]
    assert still == []


@pytest.mark.parametrize("method", METHODS)
def test_float32_agrees_with_float64_to_single_precision(method: str, small: VisionTransformer) -> None:
    exact = _edited(method, small, _tensors(method, small), alpha=0.5)
    single = copy.deepcopy(small).float()
    build = reference.REFERENCES[method](single, _tensors(method, small), {"scale": SCALE}, 0.5)
    feature: Tensor = build(_images(small).float())
    assert feature.dtype == torch.float32
    torch.testing.assert_close(feature.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_without_a_use_is_refused(method: str, small: VisionTransformer) -> None:
    tensors = _tensors(method, small) | {"blocks.0.attn.nothing": torch.zeros(1)}
    with pytest.raises((ValueError, AttributeError), match="nothing"):
        reference.REFERENCES[method](small, tensors, {"scale": SCALE}, 1.0)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "linear"])
def test_random_tensors_follow_the_seed_and_have_no_zero_tensor(
    method: str, small: VisionTransformer
) -> None:
    first, again, other = _tensors(method, small), _tensors(method, small), _tensors(method, small, seed=4)
    assert all(tensor.any() and torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not any(torch.equal(tensor, other[name]) for name, tensor in first.items())


# the counts of the paper, on ViT-B/16


@pytest.mark.parametrize(
    ("method", "config", "count"),
    [
        ("bitfit", {}, 102_912),
        ("layernorm", {}, 38_400),
        ("difffit", {}, 140_544),
        ("ssf", {}, 205_824),
        ("lora", {"rank": 8}, 294_912),
        ("fact_tt", {"rank": 16}, 61_440),
        ("fact_tk", {"rank": 32}, 86_528),
        ("repadapter", {"rank": 8}, 239_808),
        ("adaptformer", {"rank": 32}, 599_424),
        ("pfeiffer", {"rank": 8}, 156_768),
        ("houlsby", {"rank": 8}, 313_536),
        ("convpass", {"rank": 8}, 327_552),
        ("vpt_deep", {"prompts": 50}, 460_800),
        ("vpt_shallow", {"prompts": 50}, 38_400),
        ("vqt", {"prompts": 10}, 92_281),
        ("full", {}, 85_798_656),
    ],
)
def test_the_number_of_parameters_is_the_published_one(
    method: str, config: dict[str, int], count: int
) -> None:
    with torch.device("meta"):
        model = VisionTransformer(num_classes=0, weight_init="skip")
    plan = reference.tensor_plan(method, model, config)
    assert sum(torch.Size(spec.shape).numel() for spec in plan.values()) == count


# foldable methods equal their folded plain weights

Weights = dict[str, Tensor]


def _fold_absolute(weights: Weights, tensors: Weights, depth: int) -> None:
    """BitFit, LayerNorm: the tensors are the weights."""
    weights |= tensors


def _fold_lora(weights: Weights, tensors: Weights, depth: int) -> None:
    """W_qkv += A B; torch keeps W transposed."""
    for block in range(depth):
        site = f"blocks.{block}.attn.qkv"
        weights[f"{site}.weight"] += (tensors[f"{site}.lora_a"] @ tensors[f"{site}.lora_b"]).T


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
    tensors, plain = _tensors(method, vit), _with_patch_bias(vit)
    frozen = plain.state_dict()
    folded = {name: weight.clone() for name, weight in frozen.items()}
    FOLDS[method](folded, tensors, len(vit.blocks))
    plain.load_state_dict({name: torch.lerp(frozen[name], folded[name], alpha) for name in frozen})
    _assert_same(_edited(method, vit, tensors, alpha), _plain(plain))


@pytest.mark.parametrize("method", ["full", "selective"])
def test_absolute_weights_replace_timms_own(method: str, vit: VisionTransformer) -> None:
    tensors, tuned = _tensors(method, vit), copy.deepcopy(vit)
    missing = tuned.load_state_dict(tensors, strict=False).missing_keys
    assert bool(missing) == (method == "selective")
    _assert_same(_edited(method, vit, tensors), _plain(tuned))


# prompts


def _blocks(model: VisionTransformer) -> list[Any]:
    return list(model.blocks)


def _embed(model: VisionTransformer) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(_images(model))))  # type: ignore[no-any-return]


def _read(model: VisionTransformer, x: Tensor) -> Tensor:
    return model.forward_head(model.norm(x), pre_logits=True)


def test_vpt_deep_is_manual_concatenation_through_timms_blocks(vit: VisionTransformer) -> None:
    tensors, x = _tensors("vpt_deep", vit), _embed(vit)
    for block, module in enumerate(_blocks(vit)):
        prompts = tensors[f"blocks.{block}.prompts"]
        x = module(torch.cat([torch.stack([prompts, prompts]), x], 1))[:, len(prompts) :]
    _assert_same(_edited("vpt_deep", vit, tensors), _read(vit, x))


def test_vpt_shallow_carries_its_prompts_through_all_blocks(vit: VisionTransformer) -> None:
    prompts = _tensors("vpt_shallow", vit)["prompts"]
    x = vit.blocks(torch.cat([torch.stack([prompts, prompts]), _embed(vit)], 1))
    _assert_same(_edited("vpt_shallow", vit, {"prompts": prompts}), _read(vit, x[:, len(prompts) :]))


def test_the_explicit_softmax_at_alpha_one_is_timms_attention(vit: VisionTransformer) -> None:
    attn, tokens = _blocks(vit)[0].attn, _embed(vit)
    _assert_same(reference.WeightedAttention(attn, 3, 1.0)(tokens), attn(tokens))


@pytest.mark.parametrize("method", PROMPTED)
def test_alpha_is_how_often_each_prompt_stands_there(method: str, vit: VisionTransformer) -> None:
    """A key that is given k times has k times the unnormalised weight, so alpha 3 is every prompt thrice."""
    tensors = _tensors(method, vit)
    thrice = {name: prompts.repeat(3, 1) for name, prompts in tensors.items()}
    _assert_same(_edited(method, vit, tensors, alpha=3.0), _edited(method, vit, thrice))
    _assert_same(_edited(method, vit, thrice, alpha=1 / 3), _edited(method, vit, tensors))


@pytest.mark.parametrize("method", PROMPTED)
def test_a_negative_alpha_is_refused_for_prompts(method: str, small: VisionTransformer) -> None:
    with pytest.raises(ValueError, match="negative"):
        _edited(method, small, _tensors(method, small), alpha=-0.1)


def test_vpt_deep_leaves_blocks_without_prompts_alone(small: VisionTransformer) -> None:
    name = "blocks.2.prompts"
    prompts = _tensors("vpt_deep", small)[name]
    x = small.blocks[:2](_embed(small))
    x = small.blocks[2](torch.cat([torch.stack([prompts, prompts]), x], 1))[:, len(prompts) :]
    _assert_same(_edited("vpt_deep", small, {name: prompts}), _read(small, x))


# queries


def _normalised(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def test_vqt_without_queries_in_the_mix_is_the_normalised_frozen_feature(vit: VisionTransformer) -> None:
    tensors = _tensors("vqt", vit)
    tensors["mix"] = torch.zeros_like(tensors["mix"])
    tensors["mix"][0] = 1.0
    _assert_same(_edited("vqt", vit, tensors), _normalised(_plain(vit)))


def test_a_vqt_query_that_equals_a_token_is_answered_as_timm_answers_the_token(
    vit: VisionTransformer,
) -> None:
    """Queries are the first image's own first tokens, so timm's frozen blocks give what they read."""
    tensors, x = _tensors("vqt", vit), _embed(vit)
    mix = tensors["mix"]
    expected = mix[0] * _normalised(_plain(vit)[0])
    for block, module in enumerate(_blocks(vit)):
        tensors[f"blocks.{block}.prompts"] = x[0, :3]
        x = module(x)
        for query in range(3):
            expected = expected + mix[1 + 3 * block + query] * _normalised(x[0, query])
    _assert_same(_edited("vqt", vit, tensors)[0], expected)


def test_vqt_queries_do_not_see_each_other(vit: VisionTransformer) -> None:
    """With the other queries of the block replaced, a query that alone is in the mix answers the same."""
    tensors, other = _tensors("vqt", vit), _tensors("vqt", vit, seed=4)
    name = "blocks.1.prompts"
    mix = torch.zeros(1 + 3 * len(vit.blocks), dtype=torch.float64)
    mix[1 + 3 * 1 + 2] = 1.0
    kept = torch.cat([other[name][:2], tensors[name][2:]])
    _assert_same(
        _edited("vqt", vit, other | {name: kept, "mix": mix}), _edited("vqt", vit, tensors | {"mix": mix})
    )


def test_the_vqt_feature_is_linear_in_alpha(vit: VisionTransformer) -> None:
    tensors = _tensors("vqt", vit)
    expected = torch.lerp(_plain(vit), _edited("vqt", vit, tensors), 0.3)
    _assert_same(_edited("vqt", vit, tensors, alpha=0.3), expected)


# branches


@pytest.mark.parametrize("method", [*BRANCHED, "repadapter", "fact_tt", "fact_tk"])
def test_alpha_multiplies_the_scale(method: str, small: VisionTransformer) -> None:
    tensors = _tensors(method, small)
    expected = _edited(method, small, tensors, alpha=1.0, scale=0.35)
    _assert_same(_edited(method, small, tensors, alpha=0.5, scale=0.7), expected)


@pytest.mark.parametrize("method", BRANCHED)
def test_alpha_is_the_interpolation_of_the_up_projection_from_zero(
    method: str, small: VisionTransformer
) -> None:
    tensors = _tensors(method, small)
    lowered = {name: (0.3 * tensor if ".up." in name else tensor) for name, tensor in tensors.items()}
    _assert_same(_edited(method, small, tensors, alpha=0.3), _edited(method, small, lowered))


def _bottleneck(z: Tensor, tensors: Weights, name: str) -> Tensor:
    weight = {
        part: tensors[f"{name}.{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias")
    }
    hidden = F.linear(z, weight["down.weight"].T, weight["down.bias"]).clamp(min=0)
    return SCALE * F.linear(hidden, weight["up.weight"].T, weight["up.bias"])


def test_adaptformer_reads_the_stream_before_the_second_norm(vit: VisionTransformer) -> None:
    tensors, x = _tensors("adaptformer", vit), _embed(vit)
    for index, block in enumerate(_blocks(vit)):
        middle = x + block.ls1(block.attn(block.norm1(x)))
        branch = _bottleneck(middle, tensors, f"blocks.{index}.adapter")
        x = middle + block.ls2(block.mlp(block.norm2(middle))) + branch
    _assert_same(_edited("adaptformer", vit, tensors), _read(vit, x))


def test_houlsby_reads_both_sublayer_outputs(vit: VisionTransformer) -> None:
    tensors, x = _tensors("houlsby", vit), _embed(vit)
    for index, block in enumerate(_blocks(vit)):
        u = block.ls1(block.attn(block.norm1(x)))
        x = x + (u + _bottleneck(u, tensors, f"blocks.{index}.attn_adapter"))
        u = block.ls2(block.mlp(block.norm2(x)))
        x = x + (u + _bottleneck(u, tensors, f"blocks.{index}.mlp_adapter"))
    _assert_same(_edited("houlsby", vit, tensors), _read(vit, x))


def test_pfeiffer_is_houlsby_without_the_attention_adapter(vit: VisionTransformer) -> None:
    both = _tensors("houlsby", vit)
    both = {name: (0 * tensor if ".attn_adapter.up" in name else tensor) for name, tensor in both.items()}
    one = {n.replace("mlp_adapter", "adapter"): t for n, t in both.items() if ".mlp_adapter." in n}
    _assert_same(_edited("pfeiffer", vit, one), _edited("houlsby", vit, both))


def _convolve_by_hand(t: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """t [B, N, r] -> [B, N, r]: token by token, a sum over the neighbours that exist."""
    rows, columns = grid
    out = [t[:, i] @ weight[:, :, 1, 1].T + bias for i in range(prefix)]
    for y in range(rows):
        for x in range(columns):
            near = [
                (i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if 0 <= y + i < rows and 0 <= x + j < columns
            ]
            taps = [t[:, prefix + (y + i) * columns + x + j] @ weight[:, :, 1 + i, 1 + j].T for i, j in near]
            out.append(torch.stack(taps).sum(0) + bias)
    return torch.stack(out, 1)


def _conv_branch(z: Tensor, tensors: Weights, name: str, model: VisionTransformer) -> Tensor:
    weight = {key: tensors[f"{name}.{key}.weight"] for key in ("down", "conv", "up")}
    bias = {key: tensors[f"{name}.{key}.bias"] for key in ("down", "conv", "up")}
    grid = model.patch_embed.grid_size
    assert grid is not None
    t = timm.layers.quick_gelu(z @ weight["down"] + bias["down"])
    t = _convolve_by_hand(t, weight["conv"], bias["conv"], grid, model.num_prefix_tokens)
    return SCALE * (timm.layers.quick_gelu(t) @ weight["up"] + bias["up"])


def test_convpass_is_a_padded_convolution_over_the_patch_grid(vit: VisionTransformer) -> None:
    tensors, x = _tensors("convpass", vit), _embed(vit)
    for index, block in enumerate(_blocks(vit)):
        z = block.norm1(x)
        x = x + block.ls1(block.attn(z)) + _conv_branch(z, tensors, f"blocks.{index}.attn_conv", vit)
        z = block.norm2(x)
        x = x + block.ls2(block.mlp(z)) + _conv_branch(z, tensors, f"blocks.{index}.mlp_conv", vit)
    _assert_same(_edited("convpass", vit, tensors), _read(vit, x))
