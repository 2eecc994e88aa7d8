"""The references themselves, against timm, hand-folded weights and hand-written loops, without `petl_vit`."""

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from tests.petl_vit.reference.tokens import WeightedAttention
from tests.petl_vit.references.models import (
    BRANCHED,
    PROMPTED,
    SCALE,
    Weights,
    assert_same,
    edited_feature,
    plain_feature,
    random_images,
    tensors_of,
)

# prompts


def _blocks(model: VisionTransformer) -> list[Any]:
    return list(model.blocks)


def _embed(model: VisionTransformer) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(random_images(model))))  # type: ignore[no-any-return]


def _read(model: VisionTransformer, x: Tensor) -> Tensor:
    return model.forward_head(model.norm(x), pre_logits=True)


def test_vpt_deep_is_manual_concatenation_through_timms_blocks(vit: VisionTransformer) -> None:
    tensors, x = tensors_of("vpt_deep", vit), _embed(vit)
    for block, module in enumerate(_blocks(vit)):
        prompts = tensors[f"blocks.{block}.prompts"]
        x = module(torch.cat([torch.stack([prompts, prompts]), x], 1))[:, len(prompts) :]
    assert_same(edited_feature("vpt_deep", vit, tensors), _read(vit, x))


def test_vpt_shallow_carries_its_prompts_through_all_blocks(vit: VisionTransformer) -> None:
    prompts = tensors_of("vpt_shallow", vit)["prompts"]
    x = vit.blocks(torch.cat([torch.stack([prompts, prompts]), _embed(vit)], 1))
    assert_same(edited_feature("vpt_shallow", vit, {"prompts": prompts}), _read(vit, x[:, len(prompts) :]))


def test_the_explicit_softmax_at_alpha_one_is_timms_attention(vit: VisionTransformer) -> None:
    attn, tokens = _blocks(vit)[0].attn, _embed(vit)
    assert_same(WeightedAttention(attn, 3, 1.0)(tokens), attn(tokens))


@pytest.mark.parametrize("method", PROMPTED)
def test_alpha_is_how_often_each_prompt_stands_there(method: str, vit: VisionTransformer) -> None:
    """A key that is given k times has k times the unnormalised weight, so alpha 3 is every prompt thrice."""
    tensors = tensors_of(method, vit)
    thrice = {name: prompts.repeat(3, 1) for name, prompts in tensors.items()}
    assert_same(edited_feature(method, vit, tensors, alpha=3.0), edited_feature(method, vit, thrice))
    assert_same(edited_feature(method, vit, thrice, alpha=1 / 3), edited_feature(method, vit, tensors))


@pytest.mark.parametrize("method", PROMPTED)
def test_a_negative_alpha_is_refused_for_prompts(method: str, small: VisionTransformer) -> None:
    with pytest.raises(ValueError, match="negative"):
        edited_feature(method, small, tensors_of(method, small), alpha=-0.1)


def test_vpt_deep_leaves_blocks_without_prompts_alone(small: VisionTransformer) -> None:
    name = "blocks.2.prompts"
    prompts = tensors_of("vpt_deep", small)[name]
    x = small.blocks[:2](_embed(small))
    x = small.blocks[2](torch.cat([torch.stack([prompts, prompts]), x], 1))[:, len(prompts) :]
    assert_same(edited_feature("vpt_deep", small, {name: prompts}), _read(small, x))


# queries


def _normalised(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def test_vqt_without_queries_in_the_mix_is_the_normalised_frozen_feature(vit: VisionTransformer) -> None:
    tensors = tensors_of("vqt", vit)
    tensors["mix"] = torch.zeros_like(tensors["mix"])
    tensors["mix"][0] = 1.0
    assert_same(edited_feature("vqt", vit, tensors), _normalised(plain_feature(vit)))


def test_a_vqt_query_that_equals_a_token_is_answered_as_timm_answers_the_token(
    vit: VisionTransformer,
) -> None:
    """Queries are the first image's own first tokens, so timm's frozen blocks give what they read."""
    tensors, x = tensors_of("vqt", vit), _embed(vit)
    mix = tensors["mix"]
    expected = mix[0] * _normalised(plain_feature(vit)[0])
    for block, module in enumerate(_blocks(vit)):
        tensors[f"blocks.{block}.prompts"] = x[0, :3]
        x = module(x)
        for query in range(3):
            expected = expected + mix[1 + 3 * block + query] * _normalised(x[0, query])
    assert_same(edited_feature("vqt", vit, tensors)[0], expected)


def test_vqt_queries_do_not_see_each_other(vit: VisionTransformer) -> None:
    """With the other queries of the block replaced, a query that alone is in the mix answers the same."""
    tensors, other = tensors_of("vqt", vit), tensors_of("vqt", vit, seed=4)
    name = "blocks.1.prompts"
    mix = torch.zeros(1 + 3 * len(vit.blocks), dtype=torch.float64)
    mix[1 + 3 * 1 + 2] = 1.0
    kept = torch.cat([other[name][:2], tensors[name][2:]])
    assert_same(
        edited_feature("vqt", vit, other | {name: kept, "mix": mix}),
        edited_feature("vqt", vit, tensors | {"mix": mix}),
    )


def test_the_vqt_feature_is_linear_in_alpha(vit: VisionTransformer) -> None:
    tensors = tensors_of("vqt", vit)
    expected = torch.lerp(plain_feature(vit), edited_feature("vqt", vit, tensors), 0.3)
    assert_same(edited_feature("vqt", vit, tensors, alpha=0.3), expected)


# branches


@pytest.mark.parametrize("method", [*BRANCHED, "repadapter", "fact_tt", "fact_tk"])
def test_alpha_multiplies_the_scale(method: str, small: VisionTransformer) -> None:
    tensors = tensors_of(method, small)
    expected = edited_feature(method, small, tensors, alpha=1.0, scale=0.35)
    assert_same(edited_feature(method, small, tensors, alpha=0.5, scale=0.7), expected)


@pytest.mark.parametrize("method", BRANCHED)
def test_alpha_is_the_interpolation_of_the_up_projection_from_zero(
    method: str, small: VisionTransformer
) -> None:
    tensors = tensors_of(method, small)
    lowered = {name: (0.3 * tensor if ".up." in name else tensor) for name, tensor in tensors.items()}
    assert_same(edited_feature(method, small, tensors, alpha=0.3), edited_feature(method, small, lowered))


def _bottleneck(z: Tensor, tensors: Weights, name: str) -> Tensor:
    weight = {
        part: tensors[f"{name}.{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias")
    }
    hidden = F.linear(z, weight["down.weight"].T, weight["down.bias"]).clamp(min=0)
    return SCALE * F.linear(hidden, weight["up.weight"].T, weight["up.bias"])


def test_adaptformer_reads_the_stream_before_the_second_norm(vit: VisionTransformer) -> None:
    tensors, x = tensors_of("adaptformer", vit), _embed(vit)
    for index, block in enumerate(_blocks(vit)):
        middle = x + block.ls1(block.attn(block.norm1(x)))
        branch = _bottleneck(middle, tensors, f"blocks.{index}.adapter")
        x = middle + block.ls2(block.mlp(block.norm2(middle))) + branch
    assert_same(edited_feature("adaptformer", vit, tensors), _read(vit, x))


def test_houlsby_reads_both_sublayer_outputs(vit: VisionTransformer) -> None:
    tensors, x = tensors_of("houlsby", vit), _embed(vit)
    for index, block in enumerate(_blocks(vit)):
        u = block.ls1(block.attn(block.norm1(x)))
        x = x + (u + _bottleneck(u, tensors, f"blocks.{index}.attn_adapter"))
        u = block.ls2(block.mlp(block.norm2(x)))
        x = x + (u + _bottleneck(u, tensors, f"blocks.{index}.mlp_adapter"))
    assert_same(edited_feature("houlsby", vit, tensors), _read(vit, x))


def test_pfeiffer_is_houlsby_without_the_attention_adapter(vit: VisionTransformer) -> None:
    both = tensors_of("houlsby", vit)
    both = {name: (0 * tensor if ".attn_adapter.up" in name else tensor) for name, tensor in both.items()}
    one = {n.replace("mlp_adapter", "adapter"): t for n, t in both.items() if ".mlp_adapter." in n}
    assert_same(edited_feature("pfeiffer", vit, one), edited_feature("houlsby", vit, both))


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
    tensors, x = tensors_of("convpass", vit), _embed(vit)
    for index, block in enumerate(_blocks(vit)):
        z = block.norm1(x)
        x = x + block.ls1(block.attn(z)) + _conv_branch(z, tensors, f"blocks.{index}.attn_conv", vit)
        z = block.norm2(x)
        x = x + block.ls2(block.mlp(z)) + _conv_branch(z, tensors, f"blocks.{index}.mlp_conv", vit)
    assert_same(edited_feature("convpass", vit, tensors), _read(vit, x))
