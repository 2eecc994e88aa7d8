"""What an architecture is, and which are refused."""

import pytest
import torch

from petl_vit.architecture import check_supported, describe
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput, Unsupported
from tests.petl_vit.backbones import HALF, config_of


def test_a_mean_pooled_vit_has_its_norm_behind_the_pooling() -> None:
    config = config_of("vit_base_patch16_224", 224, (("global_pool", "avg"),))
    assert describe(config).final_norm == "fc_norm"


def test_both_kinds_of_gelu_are_told_apart() -> None:
    exact = describe(config_of("vit_base_patch16_siglip_224", 224)).activation
    tanh = describe(config_of("vit_base_patch32_siglip_256", 256)).activation
    x = torch.linspace(-4, 4, 101)
    assert torch.equal(exact(x), torch.nn.functional.gelu(x))
    assert torch.equal(tanh(x), torch.nn.functional.gelu(x, approximate="tanh"))
    assert not torch.equal(exact(x), tanh(x))


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ("vit_base_patch16_rpn_224", "ResPostBlock"),
        ("eva02_base_patch14_448", "MLP has a norm"),
        ("vit_small_patch16_rope_mixed_224", "frequencies are trained"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock"),
        ("vit_small_r26_s32_224", "patch embedding"),
        ("aimv2_large_patch14_224", "patch embedding"),
        ("resnet18", "resnet18"),
        ("vit_bese_patch16_224", "vit_base_patch16_224"),
    ],
)
def test_an_unsupported_architecture_is_refused_by_name(architecture: str, named: str) -> None:
    size = 224 if "patch14" not in architecture else 518
    config = BackboneConfig(architecture=architecture, image_size=size, mean=HALF, std=HALF)
    with pytest.raises(Unsupported, match=named) as refused:
        check_supported(config)
    assert architecture in str(refused.value)
    assert refused.value.remedy


@pytest.mark.parametrize("pooling", ["prr", "max", "avgmax"])
def test_another_pooling_is_refused_by_name(pooling: str) -> None:
    config = config_of("vit_base_patch16_224", 32, (("global_pool", pooling),))
    with pytest.raises(Unsupported, match=f"its pooling is '{pooling}'"):
        check_supported(config)


def test_an_image_size_off_the_patch_grid_names_the_nearest() -> None:
    config = config_of("vit_tiny_patch16_224", 64)
    with pytest.raises(InvalidInput, match="use 48"):
        describe(config).at(50)


def test_an_unknown_option_of_timm_is_refused_by_name() -> None:
    config = config_of("vit_tiny_patch16_224", 32, (("globl_pool", "avg"),))
    with pytest.raises(Unsupported, match="globl_pool"):
        describe(config)
