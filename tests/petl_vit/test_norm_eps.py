"""Another epsilon of the LayerNorms than the architecture's is an option, and computed."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.layers import LayerNorm

from petl_vit.architecture import describe
from petl_vit.backbone import CLASS_AND_MEAN, BackboneConfig
from petl_vit.errors import Unsupported
from petl_vit.executors.functional import Functional
from petl_vit.executors.sliced import Sliced
from petl_vit.vit import FrozenViT
from tests.petl_vit.backbones import HALF, relative, tensors_of, timm_features

SIZES: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 3}


def config_with(**options: Any) -> BackboneConfig:
    return BackboneConfig(
        architecture="vit_tiny_patch16_224", options=SIZES | options, image_size=32, mean=HALF, std=HALF
    )


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1])
def test_the_forward_equals_timms_with_that_epsilon(eps: float) -> None:
    norm = partial(LayerNorm, eps=eps)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, norm_layer=norm, **SIZES
    ).eval()
    vit = FrozenViT(config_with(norm_eps=eps), tensors_of(model))
    images = 0.1 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = timm_features(model, images)
        for executor in (Functional, Sliced):
            assert relative(vit.forward(images, executor(vit, [])), expected) <= 1e-5


def test_it_is_known_beside_other_options() -> None:
    arch = describe(config_with(norm_eps=1e-12, global_pool=CLASS_AND_MEAN))
    assert (arch.eps, arch.pool) == (1e-12, CLASS_AND_MEAN)
    assert "norm_eps" not in config_with(norm_eps=1e-12).timm_options


@pytest.mark.parametrize("eps", [0, -1e-6, 1, 2.0, "small", True, None, float("nan")])
def test_what_is_no_epsilon_is_refused(eps: object) -> None:
    with pytest.raises(Unsupported, match=r"between 0 and 1.*write norm_eps=1e-12"):
        describe(config_with(norm_eps=eps))
