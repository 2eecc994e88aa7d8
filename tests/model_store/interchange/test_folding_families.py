"""Models on rotary and gated backbones, folded, run in timm with the options that their header names."""

import json
from functools import partial

import pytest
import safetensors.torch
import timm
import torch

from model_store.interchange import folding
from model_store.resolution import one_model
from model_store.store import Store
from petl_vit.errors import Unsupported
from tests.model_store.real import CLASSES, Real
from tests.petl_vit.backbones import relative

SMALL = {"embed_dim": 64, "num_heads": 2}
UNBIASED, BIASED = "vit_small_plus_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"


def real(tmp_path: object, architecture: str, *methods: str, **options: object) -> Real:
    made = Real(Store.open(str(tmp_path)), architecture, **(SMALL | options))  # type: ignore[arg-type]
    for name in methods:
        made.publish(name)
    return made


def folded(made: Real, text: str) -> folding.Folded:
    return folding.folded(made.loader, one_model.resolve(made.store, text, "zoo"))


def error_in_timm(made: Real, text: str, options: dict[str, object]) -> float:
    """The largest difference of timm's logits from those that are served."""
    found = folded(made, text)
    assert json.loads(found.header["options"]) == {"depth": 2} | SMALL | options
    said = {"num_classes": len(CLASSES), "img_size": 48} | json.loads(found.header["options"])
    if "norm_eps" in found.header:
        said["norm_layer"] = partial(timm.layers.LayerNorm, eps=json.loads(found.header["norm_eps"]))
    model = timm.create_model(found.header["architecture"], **said).eval()
    model.load_state_dict(safetensors.torch.load(found.encode()), strict=True)
    with torch.no_grad():
        return relative(model(made.images), made.logits(text))


@pytest.mark.parametrize(
    "architecture",
    [UNBIASED, "vit_pe_core_base_patch16_224", "eva02_tiny_patch14_224"],
)
def test_other_layouts_of_names_are_written_back(tmp_path: object, architecture: str) -> None:
    size = {"patch_size": 16} if "patch14" in architecture else {}
    made = real(tmp_path, architecture, "lora", "full", **size)
    assert error_in_timm(made, "0.6*lora + 0.4*full", size) <= 1e-4


def test_a_bias_that_the_backbone_lacks_is_an_option_of_timms(tmp_path: object) -> None:
    made = real(tmp_path, UNBIASED, "bitfit", "repadapter", "ssf")
    biased = {"qkv_bias": True, "attn_type": "rope"}
    assert error_in_timm(made, "bitfit", {}) <= 1e-4
    assert error_in_timm(made, "0.5*repadapter", biased) <= 1e-4
    assert error_in_timm(made, "0.5*bitfit + 0.5*ssf", biased) <= 1e-4


def test_a_bias_of_keys_is_an_option_of_timms(tmp_path: object) -> None:
    made = real(tmp_path, BIASED, "ssf", "lora")
    assert error_in_timm(made, "lora", {}) <= 1e-4
    assert error_in_timm(made, "ssf", {"qkv_bias": True, "attn_type": "rope"}) <= 1e-4


@pytest.mark.parametrize("architecture", ["vit_small_patch16_224", "vit_base_patch16_siglip_224", UNBIASED])
def test_an_epsilon_that_is_not_the_architectures_is_given_as_a_norm_layer(
    tmp_path: object, architecture: str
) -> None:
    made = real(tmp_path, architecture, "lora", norm_eps=0.1)
    assert error_in_timm(made, "lora", {}) <= 1e-4


def test_a_pooling_that_timm_lacks_is_refused(tmp_path: object) -> None:
    made = real(tmp_path, "vit_small_patch16_224", "lora", global_pool="token+avg")
    with pytest.raises(Unsupported, match=r"class token and the mean.*archive or corolla export onnx"):
        folded(made, "lora")
