"""DoRA, VeRA and IA3 where the linears are others: a gated MLP, no bias of qkv, other targets."""

import copy
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn
from torch.func import functional_call

from tests.petl_vit.reference import REFERENCES
from tests.petl_vit.reference.linears import vera_matrix
from tests.petl_vit.reference.tensors import random_tensors
from tests.petl_vit.references.models import (
    NARROW,
    SCALE,
    Weights,
    assert_same,
    create,
    edited_feature,
    plain_feature,
    random_images,
)

ALPHAS = [0.0, 0.5, 1.0]
SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
TARGETS = {"dora": ("qkv", "proj", "fc1", "fc2"), "ia3": ("q", "k", "v", "proj", "fc1", "hidden")}
TARGETS["vera"] = TARGETS["dora"]


@pytest.fixture(scope="module")
def gated() -> VisionTransformer:
    """A packed gated MLP, LayerScale, registers, and queries, keys and values without a bias."""
    options: dict[str, Any] = NARROW | {"depth": 2, "img_size": 28, "qkv_bias": False}
    torch.manual_seed(0)
    model = timm.create_model("vit_giant_patch14_reg4_dinov2", num_classes=0, **options)
    assert isinstance(model, VisionTransformer)
    noise = Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise)
    return model.double().eval().requires_grad_(False)


def tensors_at(method: str, model: VisionTransformer, **config: Any) -> Weights:
    generator = Generator().manual_seed(3)
    return random_tensors(method, model, generator, torch.float64, rank=4, **config)


def folded(method: str, model: VisionTransformer, tensors: Weights) -> Weights:
    """The weights of the adapter as trained, each row or column of them changed by itself."""
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    for block in [f"blocks.{block}" for block in range(len(model.blocks))]:
        for site in [f"{block}.{site}" for site in SITES]:
            weight = weights[f"{site}.weight"]
            if method == "dora":
                a, b = tensors[f"{site}.lora_a"], tensors[f"{site}.lora_b"]
                for row in range(len(weight)):
                    moved = weight[row] + SCALE * sum(a[:, k] * b[k, row] for k in range(4))
                    weight[row] = tensors[f"{site}.magnitude"][row] * moved / moved.dot(moved).sqrt()
            if method == "vera":
                d, b = tensors[f"{site}.vera_d"], tensors[f"{site}.vera_b"]
                shared_a = vera_matrix(0, 0, weight.shape[1], 4).double()
                shared_b = vera_matrix(0, 1, 4, weight.shape[0]).double()
                for k in range(4):
                    weight += d[k] * torch.outer(b * shared_b[k], shared_a[:, k])
        if method == "ia3":
            _scale_block(weights, tensors, block, model.embed_dim)
    return weights


def _scale_block(weights: Weights, tensors: Weights, block: str, width: int) -> None:
    for place, part in enumerate("qkv"):
        rows = slice(place * width, (place + 1) * width)
        weights[f"{block}.attn.qkv.weight"][rows] *= tensors[f"{block}.attn.{part}.scale"][:, None]
    for site in (f"{block}.attn.proj", f"{block}.mlp.fc1"):
        weights[f"{site}.weight"] *= tensors[f"{site}.scale"][:, None]
        weights[f"{site}.bias"] *= tensors[f"{site}.scale"]
    weights[f"{block}.mlp.fc2.weight"] *= tensors[f"{block}.mlp.hidden.scale"]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("method", TARGETS)
def test_on_a_gated_mlp_without_bias_of_qkv_it_is_the_interpolation_to_folded_weights(
    method: str, alpha: float, gated: VisionTransformer
) -> None:
    tensors = tensors_at(method, gated, targets=TARGETS[method])
    build = REFERENCES[method](gated, tensors, {"scale": SCALE, "targets": TARGETS[method]}, alpha)
    frozen, tuned = gated.state_dict(), folded(method, gated, tensors)
    plain = copy.deepcopy(gated)
    plain.load_state_dict({name: torch.lerp(frozen[name], tuned[name], alpha) for name in frozen})
    assert_same(build(random_images(gated)), plain_feature(plain))


def test_the_gated_mlp_scales_what_its_second_linear_takes(gated: VisionTransformer) -> None:
    mlp: Any = gated.blocks[0].mlp
    tensors = tensors_at("ia3", gated)
    assert tensors["blocks.0.mlp.hidden.scale"].shape == (mlp.fc2.in_features,)
    assert mlp.fc1.out_features == 2 * mlp.fc2.in_features


def test_doras_norm_is_a_constant_to_the_gradient() -> None:
    """Equation 6: the gradient of W + s B A is m / norm times that of W'."""
    vit = create("plain")
    tensors = {name: t.requires_grad_() for name, t in tensors_at("dora", vit).items()}
    edited_feature("dora", vit, tensors).sin().sum().backward()

    site = "blocks.1.attn.qkv"
    a, b = (tensors[f"{site}.{name}"].detach() for name in ("lora_a", "lora_b"))
    merged: Weights = {}
    for name in [name.removesuffix(".magnitude") for name in tensors if name.endswith("magnitude")]:
        step = (tensors[f"{name}.lora_a"] @ tensors[f"{name}.lora_b"]).T.detach()
        moved = vit.get_parameter(f"{name}.weight") + SCALE * step
        lengths = tensors[f"{name}.magnitude"].detach()[:, None]
        merged[f"{name}.weight"] = (lengths * moved / moved.norm(dim=1, keepdim=True)).requires_grad_()
        if name == site:
            unit, ratio = moved / moved.norm(dim=1, keepdim=True), lengths / moved.norm(dim=1, keepdim=True)
    feature: Tensor = functional_call(vit, merged, random_images(vit))
    feature.sin().sum().backward()
    of_weight = merged[f"{site}.weight"].grad
    assert of_weight is not None
    assert_same(_grad(tensors, site, "magnitude"), (of_weight * unit).sum(1))
    assert_same(_grad(tensors, site, "lora_b"), SCALE * a.T @ (ratio * of_weight).T)
    assert_same(_grad(tensors, site, "lora_a"), SCALE * (ratio * of_weight).T @ b.T)


def _grad(tensors: Weights, site: str, name: str) -> Tensor:
    grad = tensors[f"{site}.{name}"].grad
    assert grad is not None
    return grad


def test_doras_start_is_the_frozen_model() -> None:
    vit = create("dinov2")
    tensors = tensors_at("dora", vit)
    for name, tensor in tensors.items():
        site = name.rpartition(".")[0]
        tensors[name] = {
            "lora_b": torch.zeros_like(tensor),
            "magnitude": vit.get_parameter(f"{site}.weight").norm(dim=1),
        }.get(name.rpartition(".")[2], tensor)
    assert_same(edited_feature("dora", vit, tensors), plain_feature(vit))


def test_veras_matrices_follow_the_seed_and_are_shared_by_blocks() -> None:
    first, other = vera_matrix(0, 0, 48, 16), vera_matrix(1, 0, 48, 16)
    assert torch.equal(first, vera_matrix(0, 0, 48, 16))
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    bound = nn.init.calculate_gain("relu") * (3 / 48) ** 0.5
    assert 0.95 * bound < float(first.abs().max()) <= bound


def test_ia3_on_both_sides_of_one_linear_is_refused() -> None:
    with pytest.raises(ValueError, match="either"):
        tensors_at("ia3", create("plain"), targets=("fc2", "hidden"))
