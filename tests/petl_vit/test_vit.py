"""The one forward, without edits, against timm's own."""

import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from petl_vit.executors import Functional, Sliced
from petl_vit.vit import BackboneConfig, FrozenViT, check_supported, describe
from tests.petl_vit.backbones import HALF, config_of, relative, tensors_of, timm_features, timm_model

FULL_SIZE = [
    ("vit_tiny_patch16_224", 224, ()),
    ("vit_small_patch14_reg4_dinov2", 518, ()),
    ("vit_base_patch16_clip_224", 224, ()),
    ("vit_base_patch16_clip_quickgelu_224", 224, ()),
    ("vit_tiny_patch16_224", 224, (("global_pool", "avg"),)),
    ("deit3_small_patch16_224", 224, ()),
    ("deit_tiny_patch16_224", 224, ()),
]


@pytest.mark.parametrize(("architecture", "native", "options"), FULL_SIZE)
@pytest.mark.parametrize("executor", [Functional, Sliced])
def test_without_edits_the_forward_equals_timm(architecture, native, options, executor) -> None:
    config = config_of(architecture, native, options, depth=None)
    model = timm_model(config.model_dump_json())
    size = native if native == 224 else 112  # full native DINOv2 takes a minute on a laptop
    vit = FrozenViT(config, tensors_of(model), image_size=size)
    if size != native:
        smaller = timm.create_model(architecture, num_classes=0, img_size=size).eval()
        smaller.load_state_dict(checkpoint_filter_fn(dict(model.state_dict()), smaller))
        model = smaller
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = vit.forward(images, executor(vit, []))
        assert relative(found, timm_features(model, images)) <= 1e-5


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [48, 96])
def test_the_position_embedding_is_resampled_as_timm_does(antialias: bool, size: int) -> None:
    config = config_of("vit_tiny_patch16_224", 64).model_copy(update={"pos_embed_antialias": antialias})
    model = timm_model(config.model_dump_json())
    vit = FrozenViT(config, tensors_of(model), image_size=size)
    other = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, depth=3).eval()
    other.load_state_dict(checkpoint_filter_fn(dict(model.state_dict()), other, antialias=antialias))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert relative(vit.forward(images, Sliced(vit, [])), timm_features(other, images)) <= 1e-5


def test_sizes_of_one_backbone_share_all_but_the_position_embedding() -> None:
    config = config_of("vit_tiny_patch16_224", 64)
    tensors = tensors_of(timm_model(config.model_dump_json()))
    small, large = FrozenViT(config, tensors, image_size=32), FrozenViT(config, tensors, image_size=96)
    differing = {name for name in tensors if small.params[name] is not large.params[name]}
    assert differing == {"pos_embed"}


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ("vit_base_patch16_siglip_224", "pooling is 'map'"),
        ("eva02_tiny_patch14_224", "Eva"),
        ("vit_small_patch16_dinov3", "Eva"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock"),
        ("vit_small_r26_s32_224", "patch embedding"),
        ("vit_giant_patch14_reg4_dinov2", "MLP"),
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


def test_an_image_size_off_the_patch_grid_names_the_nearest() -> None:
    config = config_of("vit_tiny_patch16_224", 64)
    with pytest.raises(InvalidInput, match="use 48"):
        describe(config).at(50)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_foreign_tensors_are_refused(change: str) -> None:
    config = config_of("vit_tiny_patch16_224", 32)
    tensors = tensors_of(timm_model(config.model_dump_json()))
    if change == "missing":
        del tensors["norm.weight"]
    elif change == "extra":
        tensors["norm.other"] = torch.zeros(3)
    else:
        tensors["norm.weight"] = torch.zeros(3)
    with pytest.raises(Corrupt, match=r"norm\."):
        FrozenViT(config, tensors)


def test_an_unknown_option_of_timm_is_refused_by_name() -> None:
    config = config_of("vit_tiny_patch16_224", 32, (("globl_pool", "avg"),))
    with pytest.raises(Unsupported, match="globl_pool"):
        describe(config)
