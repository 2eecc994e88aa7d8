"""The references themselves, against timm, hand-folded weights and hand-written loops, without `petl_vit`."""

import copy

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tests.petl_vit.reference import REFERENCES
from tests.petl_vit.reference.tensors import tensor_plan
from tests.petl_vit.references.models import (
    METHODS,
    SCALE,
    edited_feature,
    plain_feature,
    random_images,
    tensors_of,
)

# every method


@pytest.mark.parametrize("method", METHODS)
def test_alpha_zero_is_the_frozen_model(method: str, unlike: VisionTransformer) -> None:
    feature = edited_feature(method, unlike, tensors_of(method, unlike), alpha=0.0)
    torch.testing.assert_close(feature, plain_feature(unlike), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "linear"])
def test_alpha_one_changes_the_feature_visibly_and_stays_finite(
    method: str, unlike: VisionTransformer
) -> None:
    frozen, feature = plain_feature(unlike), edited_feature(method, unlike, tensors_of(method, unlike))
    assert feature.shape == (2, unlike.embed_dim)
    change = (feature - frozen).norm() / frozen.norm()
    assert 0.01 < change < 10


@pytest.mark.parametrize("method", METHODS)
def test_the_given_model_is_left_as_it_was(method: str, small: VisionTransformer) -> None:
    before = copy.deepcopy(small.state_dict())
    edited_feature(method, small, tensors_of(method, small))
    after = small.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "linear"])
def test_every_tensor_receives_a_gradient(method: str, small: VisionTransformer) -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in tensors_of(method, small).items()}
    edited_feature(method, small, tensors, alpha=0.5).square().sum().backward()
    still = [name for name, tensor in tensors.items() if tensor.grad is None or not tensor.grad.any()]
    assert still == []


@pytest.mark.parametrize("method", METHODS)
def test_float32_agrees_with_float64_to_single_precision(method: str, small: VisionTransformer) -> None:
    exact = edited_feature(method, small, tensors_of(method, small), alpha=0.5)
    single = copy.deepcopy(small).float()
    build = REFERENCES[method](single, tensors_of(method, small), {"scale": SCALE}, 0.5)
    feature: Tensor = build(random_images(small).float())
    assert feature.dtype == torch.float32
    torch.testing.assert_close(feature.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_without_a_use_is_refused(method: str, small: VisionTransformer) -> None:
    tensors = tensors_of(method, small) | {"blocks.0.attn.nothing": torch.zeros(1)}
    with pytest.raises((ValueError, AttributeError), match="nothing"):
        REFERENCES[method](small, tensors, {"scale": SCALE}, 1.0)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "linear"])
def test_random_tensors_follow_the_seed_and_have_no_zero_tensor(
    method: str, small: VisionTransformer
) -> None:
    first, again, other = (
        tensors_of(method, small),
        tensors_of(method, small),
        tensors_of(method, small, seed=4),
    )
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
        ("dora", {"rank": 8}, 322_560),
        ("vera", {"rank": 256}, 30_720),
        ("ia3", {}, 55_296),
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
    plan = tensor_plan(method, model, config)
    assert sum(torch.Size(spec.shape).numel() for spec in plan.values()) == count
