"""Checkpoints of the original repositories become what timm makes of them, and compute the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from model_store.sources.backbones import Request, read
from model_store.sources.families import clip, dinov2, dinov3, perception, registry
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.executors.sliced import Sliced
from petl_vit.timm_names import canonical
from petl_vit.vit import FrozenViT
from tests.model_store.sources.families import originals
from tests.model_store.sources.families.originals import BLOCKS, HEADS, D, Table
from tests.petl_vit.backbones import relative

SIDE = originals.PATCH * originals.GRID
SIZES = {"depth": BLOCKS, "embed_dim": D, "num_heads": HEADS}
GATED = {"mlp_ratio": 2 * originals.HIDDEN / D}
PE = SIZES | {"patch_size": 14, "attn_pool_num_heads": 2, "ref_feat_shape": 2, "init_values": 1e-5}

CASES: dict[str, tuple[str, dict[str, Any], Callable[[], Table]]] = {
    "DINOv2": ("vit_small_patch14_dinov2", SIZES, originals.dinov2),
    "DINOv2, registers": (
        "vit_small_patch14_reg4_dinov2",
        SIZES,
        lambda: originals.dinov2(registers=4),
    ),
    "DINOv2, gated": (
        "vit_giant_patch14_reg4_dinov2",
        SIZES | GATED,
        lambda: originals.dinov2(gated=True, registers=4),
    ),
    "DINOv3": ("vit_small_patch16_dinov3_qkvb", SIZES | {"patch_size": 14}, originals.dinov3),
    "DINOv3, gated": (
        "vit_small_plus_patch16_dinov3_qkvb",
        SIZES | {"patch_size": 14, "mlp_ratio": 4},
        lambda: originals.dinov3(gated=True),
    ),
    "CLIP": ("vit_base_patch32_clip_quickgelu_224", SIZES | {"patch_size": 14}, originals.clip),
    "CLIP, LayerScale": (
        "vit_base_patch32_clip_224",
        SIZES | {"patch_size": 14, "init_values": 1.0},
        lambda: originals.clip(gammas=True),
    ),
    "PE": (
        "vit_pe_core_base_patch16_224",
        PE,
        lambda: originals.clip(pool=True, gammas=True),
    ),
}


def saved(folder: Path, tensors: object) -> str:
    torch.save(tensors, folder / "x.pth")
    return str(folder / "x.pth")


@pytest.mark.parametrize("label", CASES)
def test_an_original_checkpoint_computes_what_timm_makes_of_it(label: str, tmp_path: Path) -> None:
    architecture, options, make = CASES[label]
    model = timm.create_model(architecture, num_classes=0, img_size=SIDE, **options).eval()
    source = make()
    convert = (
        eva.checkpoint_filter_fn if isinstance(model, eva.Eva) else vision_transformer.checkpoint_filter_fn
    )
    expected = convert({name: tensor.clone() for name, tensor in source.items()}, model)
    if "LayerScale" in label:  # timm's converter does not know it
        expected = {n.replace("ls_1", "ls1").replace("ls_2", "ls2"): t for n, t in expected.items()}
    expected = {n: t for n, t in expected.items() if not n.startswith("head.") and "mask_token" not in n}
    model.load_state_dict(expected, strict=True)
    request = Request(architecture=architecture, image_size=SIDE, options=options)
    found = read(saved(tmp_path, source), request)
    known = canonical(expected)
    assert found.tensors.keys() == known.keys()
    assert all(torch.equal(found.tensors[name], known[name].float()) for name in known)
    frozen, images = FrozenViT(found.config, found.tensors), torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(images), pre_logits=True)
        assert relative(frozen.forward(images, Sliced(frozen, [])), pooled) <= 1e-5


def test_blocks_in_chunks_under_a_teacher_are_the_averaged_weights(tmp_path: Path) -> None:
    architecture, options, make = CASES["DINOv2, gated"]
    request = Request(architecture=architecture, image_size=SIDE, options=options)
    plain = read(saved(tmp_path, make()), request)
    others = {name: tensor + 1 for name, tensor in make().items()}
    both = {
        "teacher": {f"backbone.{name}": t for name, t in originals.in_chunks(make()).items()},
        "student": {f"backbone.{name}": t for name, t in originals.in_chunks(others).items()},
    }
    found = read(saved(tmp_path, both), request)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in plain.tensors.items())
    assert "averaged (EMA) weights" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("DINOv2, gated", dinov2.ORIGINAL),
        ("DINOv3, gated", dinov3.ORIGINAL_GATED),
        ("CLIP", clip.OPEN_CLIP),
        ("PE", perception.ORIGINAL),
    ],
)
def test_names_lead_there_and_back(label: str, names: registry.Names) -> None:
    whole = CASES[label][2]()
    visual = {n.removeprefix("visual."): t for n, t in whole.items() if n.startswith("visual.")} or whole
    unused = ("mask_token", "rope_embed", "proj")
    source = {n: t for n, t in visual.items() if not n.startswith(unused) and not n.endswith("bias_mask")}
    ours, found = registry.ours(source, "x")
    assert found is names
    back = names.theirs(ours)
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in source.items())


def test_biases_of_keys_are_zero_where_a_mask_says_so(tmp_path: Path) -> None:
    architecture, options, make = CASES["DINOv3"]
    found = read(
        saved(tmp_path, make()), Request(architecture=architecture, image_size=SIDE, options=options)
    )
    queries, keys, values = found.tensors["blocks.0.attn.qkv.bias"].chunk(3)
    assert not keys.any()
    assert queries.all()
    assert values.all()


def test_biases_that_are_all_zero_need_none(tmp_path: Path) -> None:
    _, options, make = CASES["DINOv3"]
    source = make()
    request = Request(architecture="vit_small_patch16_dinov3", image_size=SIDE, options=options)
    with pytest.raises(InvalidInput, match="use --architecture vit_small_patch16_dinov3_qkvb"):
        read(saved(tmp_path, source), request)
    zero = {n: t * 0 if n.endswith("qkv.bias") else t for n, t in source.items()}
    assert "blocks.0.attn.qkv.bias" not in read(saved(tmp_path, zero), request).tensors


def test_rotary_positions_of_other_periods_are_refused(tmp_path: Path) -> None:
    source = originals.dinov3() | {"rope_embed.periods": torch.tensor([1.0, 70.0])}
    with pytest.raises(Unsupported, match=r"periods of its rotary positions are not 100"):
        read(saved(tmp_path, source), Request(architecture="vit_small_patch16_dinov3_qkvb"))


@pytest.mark.parametrize(
    ("label", "size", "problem"),
    [("DINOv3", 30, r"30 px is not a multiple.*use 28"), ("DINOv2", 42, r"pos_embed .*use --image-size 28")],
)
def test_an_image_size_that_the_grid_cannot_take_is_refused(
    label: str, size: int, problem: str, tmp_path: Path
) -> None:
    architecture, options, make = CASES[label]
    with pytest.raises(InvalidInput, match=problem):
        read(saved(tmp_path, make()), Request(architecture=architecture, image_size=size, options=options))


@pytest.mark.parametrize("size", [28, 56, 70])
def test_a_vit_without_positions_takes_any_whole_grid(size: int, tmp_path: Path) -> None:
    architecture, options, make = CASES["DINOv3"]
    request = Request(architecture=architecture, image_size=size, options=options)
    assert read(saved(tmp_path, make()), request).config.image_size == size


def test_a_file_without_a_name_is_told_what_it_may_be(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    with pytest.raises(InvalidInput, match=r"those of vit_tiny_patch16_224 or"):
        read(saved(tmp_path, dict(model.state_dict())), Request())


def test_a_gated_mlp_leads_to_the_architecture_that_has_one(tmp_path: Path) -> None:
    make = CASES["DINOv2, gated"][2]
    request = Request(architecture="vit_small_patch14_reg4_dinov2", image_size=SIDE, options=SIZES)
    told = r"gated: try --architecture vit_giant_patch14_reg4_dinov2.* mlp_ratio=8\.0"
    with pytest.raises(InvalidInput, match=told):
        read(saved(tmp_path, make()), request)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: {n: t for n, t in w.items() if n != "norm.bias"}, r"missing norm\.bias"),
        (lambda w: w | {"blocks.0.mlp.w4.weight": torch.ones(2)}, r"unexpected blocks\.0\.mlp\.w4\.weight"),
        (lambda w: {n.replace("w12", "w21"): t for n, t in w.items()}, r"missing blocks\.0\.mlp\.fc1"),
        (lambda w: w | {"norm.bias": torch.tensor(float("nan")).repeat(D)}, "NaN"),
        (lambda w: w | {"norm.bias": torch.ones(D, dtype=torch.int8)}, "type int8"),
        (lambda w: w | {"norm.bias": torch.ones(())}, r"wrong shape norm\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[Table], Table], problem: str, tmp_path: Path
) -> None:
    architecture, options, make = CASES["DINOv2, gated"]
    request = Request(architecture=architecture, image_size=SIDE, options=options)
    with pytest.raises(Exception, match=problem) as raised:
        read(saved(tmp_path, change(make())), request)
    assert type(raised.value).__module__ == "petl_vit.errors"


def test_a_folder_of_open_clip_says_what_it_is(tmp_path: Path) -> None:
    tower = {"image_size": SIDE, "layers": BLOCKS, "width": D, "head_width": D // HEADS, "patch_size": 14}
    config = {
        "model_cfg": {"embed_dim": 8, "quick_gelu": True, "vision_cfg": tower, "text_cfg": {}},
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(originals.clip(), tmp_path / "open_clip_pytorch_model.bin")
    found = read(str(tmp_path), Request())
    assert found.config.architecture == "vit_huge_patch14_clip_quickgelu_224"
    assert found.config.options.items() >= SIZES.items()
    assert (found.config.mean, found.config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    architecture, options = CASES["CLIP"][:2]
    given = Request(architecture=architecture, image_size=SIDE, options=options)
    other = read(str(tmp_path / "open_clip_pytorch_model.bin"), given)
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in found.tensors.items())


OTHERS: dict[str, tuple[str, str]] = {
    "stages.0.blocks.0.conv_dw.weight": ("a ConvNeXt", "convolutions"),
    "convnext.encoder.stages.0.layers.0.dwconv.weight": ("a ConvNeXt", "convolutions"),
    "stages.0.0.dwconv.weight": ("a ConvNeXt", "convolutions"),
    "layers.0.blocks.0.attn.relative_position_bias_table": ("a Swin", "merged"),
    "swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table": ("a Swin", "merged"),
    "blocks.0.attn.relative_position_bias_table": ("a BEiT", "relative positions"),
    "blocks.0.mlp.norm.weight": ("an EVA-02", "norm before the last linear"),
    "trunk.blocks.0.norm_1.weight": ("an AIMv2", "RMSNorm"),
    "blocks.0.attn.q_norm.weight": ("norms of queries and keys", "none"),
    "rope.freqs": ("mixed rotary", "trained"),
    "dist_token": ("a distilled DeiT", "second token"),
    "embeddings.word_embeddings.weight": ("a model of text", "no images"),
    "model.embed_tokens.weight": ("a model of text", "no images"),
    "layer1.0.conv1.weight": ("a ResNet", "convolutions"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_of_another_family_is_refused_by_name(name: str, tmp_path: Path) -> None:
    what, why = OTHERS[name]
    tensors: dict[str, Tensor] = {name: torch.ones(2)}
    if name.startswith(("blocks.", "rope", "dist")):
        tensors |= originals.dinov2()
    if name.startswith("convnext"):
        tensors["convnext.embeddings.patch_embeddings.weight"] = torch.ones(2, 3, 4, 4)
    with pytest.raises(Unsupported, match=f"{what}.*{why}"):
        read(saved(tmp_path, tensors), Request(architecture="vit_small_patch14_dinov2"))


@pytest.mark.parametrize("registers", [0, 4])
def test_a_gated_mlp_that_timms_config_cannot_say_is_seen_in_the_tensors(
    registers: int, tmp_path: Path
) -> None:
    """As the folders of UNI 2 and Virchow are, whose model cards have the layer as an argument."""
    keywords = SIZES | {"mlp_ratio": 5.34, "init_values": 1e-5, "reg_tokens": registers}
    layers = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    model = timm.create_model(
        "vit_huge_patch14_224", num_classes=0, img_size=SIDE, **keywords, **layers
    ).eval()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    config = {
        "architecture": "vit_huge_patch14_224",
        "model_args": keywords | {"global_pool": "", "img_size": SIDE},
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"tag": "virchow_v2"}}))
    found = read(str(tmp_path), Request())
    assert "its MLP is gated" in " ".join(found.notes)
    frozen, images = FrozenViT(found.config, found.tensors), torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        pooled = model.forward_features(images)[:, 0]
        assert relative(frozen.forward(images, Sliced(frozen, [])), pooled) <= 1e-5
