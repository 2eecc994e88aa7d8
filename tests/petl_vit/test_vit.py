"""The one forward, without edits, against timm's own."""

import copy
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models import eva, vision_transformer
from timm.models.vision_transformer import checkpoint_filter_fn

from petl_vit.backbone import CLASS_AND_MEAN, BackboneConfig
from petl_vit.errors import Corrupt
from petl_vit.executors.functional import Functional
from petl_vit.executors.sliced import Sliced
from petl_vit.vit import FrozenViT
from tests.petl_vit.backbones import (
    Model,
    config_of,
    pooled_as,
    relative,
    tensors_of,
    timm_features,
    timm_model,
)

Options = tuple[tuple[str, str | int], ...]
NARROW: Options = (("embed_dim", 192), ("num_heads", 3))
"""Of architectures that are too large to be made in a test."""

SUPPORTED: dict[str, tuple[str, int, Options]] = {
    "ViT": ("vit_tiny_patch16_224", 224, ()),
    "DeiT": ("deit_tiny_patch16_224", 224, ()),
    "DeiT-3": ("deit3_small_patch16_224", 224, ()),
    "MAE": ("vit_base_patch16_224", 224, (("global_pool", "avg"),)),
    "CLIP": ("vit_base_patch16_clip_224", 224, ()),
    "CLIP-QuickGELU": ("vit_base_patch16_clip_quickgelu_224", 224, ()),
    "DINOv2": ("vit_small_patch14_dinov2", 518, ()),
    "DINOv2-registers": ("vit_small_patch14_reg4_dinov2", 518, ()),
    "SigLIP": ("vit_base_patch16_siglip_224", 224, ()),
    "SigLIP-2": ("vit_base_patch32_siglip_256", 256, ()),
    "SigLIP-mean": ("vit_base_patch16_siglip_gap_224", 224, ()),
    "DINOv2-giant": ("vit_giant_patch14_reg4_dinov2", 518, NARROW),
    "class-and-mean": ("vit_small_patch14_reg4_dinov2", 518, (("global_pool", CLASS_AND_MEAN),)),
    "DINOv3": ("vit_small_patch16_dinov3", 256, ()),
    "DINOv3-bias": ("vit_tiny_patch16_dinov3_qkvb", 256, (("global_pool", "token"),)),
    "DINOv3-plus": ("vit_small_plus_patch16_dinov3", 256, NARROW),
    "PE-Core": ("vit_pe_core_tiny_patch16_384", 384, ()),
    "PE-Spatial": ("vit_pe_spatial_tiny_patch16_512", 512, ()),
    "EVA-02": ("eva02_tiny_patch14_224", 224, ()),
    "ViT-RoPE": ("vit_small_patch16_rope_224", 224, NARROW),
    "InternViT": ("vit_intern300m_patch14_448", 448, NARROW),
}

WHOLE = {"ViT", "DINOv2-registers", "CLIP"}
"""Computed with all of their blocks."""


def size_at(native: int) -> int:
    return native if native < 300 else 112  # full native DINOv2 takes a minute on a laptop


def at_size(model: Model, config: BackboneConfig, size: int) -> Model:
    """timm's model with the same weights at another image size."""
    name, options = config.architecture, config.timm_options
    other: Model = timm.create_model(name, num_classes=0, img_size=size, **options).eval()
    of_model = eva if isinstance(model, eva.Eva) else vision_transformer
    other.load_state_dict(of_model.checkpoint_filter_fn(dict(model.state_dict()), other))
    return pooled_as(config, other)


@pytest.mark.parametrize("row", SUPPORTED)
def test_without_edits_the_forward_equals_timm(row: str) -> None:
    architecture, native, options = SUPPORTED[row]
    depth = None if row in WHOLE else 4  # all blocks are alike, and a base takes seconds to be made
    config = config_of(architecture, native, options, depth=depth)
    model = timm_model.__wrapped__(config.model_dump_json())  # too large to be kept
    size = size_at(native)
    vit = FrozenViT(config, tensors_of(model), image_size=size)
    if size != native:
        model = at_size(model, config, size)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = timm_features(model, images)
        assert expected.shape == (2, vit.arch.features)
        for executor in (Functional, Sliced):
            assert relative(vit.forward(images, executor(vit, [])), expected) <= 1e-5, executor


def test_the_page_of_backbones_has_a_row_for_every_one_tested_here_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (\d+) px \|", page, re.MULTILINE)
    tested = {(row, name, str(size_at(native))) for row, (name, native, _) in SUPPORTED.items()}
    assert set(rows) == tested


def test_attention_pooling_reads_the_executors_parameters() -> None:
    architecture, _, _ = SUPPORTED["SigLIP"]
    config = config_of(architecture, 32)
    model = timm_model(config.model_dump_json())
    vit, images = FrozenViT(config, tensors_of(model)), torch.randn(2, 3, 32, 32)
    changed = {n: t * 1.1 if n.startswith("attn_pool.") else t for n, t in vit.params.items()}
    other = copy.deepcopy(model)
    other.load_state_dict(changed)
    with torch.no_grad():
        found = vit.forward(images, Sliced(vit, [], changed))
        assert relative(found, timm_features(other, images)) <= 1e-5
        assert relative(found, timm_features(model, images)) > 1e-3


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("row", ["DINOv3", "PE-Core", "EVA-02"])
def test_rotary_positions_at_another_size_are_timms(row: str, size: int) -> None:
    architecture, _, _ = SUPPORTED[row]
    patch = 14 if "patch14" in architecture else 16
    config = config_of(architecture, 4 * patch, NARROW, depth=2)
    model = timm_model(config.model_dump_json())
    size = size // 16 * patch
    other, images = at_size(model, config, size).double(), torch.randn(2, 3, size, size).double()
    vit = FrozenViT(config, tensors_of(model), image_size=size).to(dtype=torch.float64)
    with torch.no_grad():
        assert relative(vit.forward(images, Sliced(vit, [])), timm_features(other, images)) <= 1e-10


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
