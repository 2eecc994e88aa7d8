"""Checkpoints as other tools write them become the same tensors, and say what was taken off or left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from model_store.sources import checkpoint
from model_store.sources.backbones import Imported, Request, read
from petl_vit.errors import InvalidInput, NotFound, Unsupported
from tests.model_store.sources.spellings import spelled
from tests.petl_vit.backbones import config_of, tensors_of, timm_model

TINY = "vit_tiny_patch16_224"
SMALL = {"depth": 1, "embed_dim": 12}
HEAD = {"head.weight": torch.ones(2, 12), "head.bias": torch.zeros(2)}

Table = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Table:
    return dict(read(f"random:{TINY}", Request(image_size=32, options=SMALL)).tensors)


def imported(path: Path, **changes: Any) -> Imported:
    values: dict[str, Any] = {"architecture": TINY, "image_size": 32, "options": SMALL}
    return read(str(path), Request(**(values | changes)))


def under(prefix: str, tensors: Table) -> Table:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def same(found: Table, expected: Table) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(t, expected[n]) for n, t in found.items())


OTHER = {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 7}
WRAPPED: dict[str, tuple[Callable[[Table], object], str | None]] = {
    "plain": (lambda w: w, None),
    "state_dict": (lambda w: {"state_dict": w, **OTHER}, None),
    "model_state_dict": (lambda w: {"model_state_dict": w}, None),
    "ddp": (lambda w: {"state_dict": under("module.", w)}, "'module.' was taken off"),
    "compiled": (lambda w: {"model": under("_orig_mod.", w)}, "'_orig_mod.' was taken off"),
    "both": (lambda w: under("module._orig_mod.", w), "'module._orig_mod.' was taken off"),
    "lightning": (lambda w: {"state_dict": under("model.", w), "hparams": {}}, "'model.' was taken off"),
    "ema alone": (lambda w: {"model_ema": under("module.", w)}, "'module.' was taken off"),
    "dino": (
        lambda w: {"teacher": under("backbone.", w) | {"head.mlp.0.weight": torch.zeros(2, 2)}},
        "under 'backbone.'; left out 1 other: teacher.head.mlp.0.weight",
    ),
    "deep": (lambda w: {"state_dict": {"net": under("module.backbone.", w)}}, "'net.module.backbone.' was"),
    "beside text": (
        lambda w: under("visual.trunk.", w) | {"text.proj": torch.ones(2)},
        "under 'visual.trunk.'; left out 1 other: text.proj",
    ),
    "mae": (
        lambda w: {"model": w | {"mask_token": torch.ones(1), "decoder_pred.weight": torch.ones(2, 2)}},
        "left out what is not the encoder's: decoder_pred.weight, mask_token",
    ),
    "a classifier": (lambda w: under("module.", w | HEAD), "its head of 2 classes was left out"),
    "a head beside": (
        lambda w: under("backbone.", w) | {n.replace("head", "fc"): t for n, t in HEAD.items()},
        "its head of 2 classes was left out",
    ),
    "another name": (
        lambda w: w | {n.replace("head", "classifier"): t for n, t in HEAD.items()},
        "its head of 2 classes was left out",
    ),
}


@pytest.mark.parametrize("label", WRAPPED)
def test_a_wrapped_checkpoint_is_the_same_backbone(label: str, tmp_path: Path, weights: Table) -> None:
    wrap, said = WRAPPED[label]
    torch.save(wrap(weights), tmp_path / "x.pth")
    found = imported(tmp_path / "x.pth")
    assert same(found.tensors, weights)
    assert said is None or said in " ".join(found.notes)
    assert said is not None or found.notes == ()


def test_a_checkpoint_of_timms_train_says_its_architecture(tmp_path: Path, weights: Table) -> None:
    torch.save({"arch": TINY, "epoch": 3, "state_dict": weights}, tmp_path / "last.pth.tar")
    assert same(imported(tmp_path / "last.pth.tar", architecture=None).tensors, weights)


def test_prefixes_are_taken_off_in_safetensors_too(tmp_path: Path, weights: Table) -> None:
    safetensors.torch.save_file(under("module.", weights), tmp_path / "x.safetensors")
    assert same(imported(tmp_path / "x.safetensors").tensors, weights)


@pytest.mark.parametrize(
    ("averaged", "plain"),
    [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("teacher", "student")],
)
def test_averaged_weights_are_taken_unless_the_plain_ones_are_meant(
    averaged: str, plain: str, tmp_path: Path, weights: Table
) -> None:
    others = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({plain: under("module.", weights), averaged: others}, tmp_path / "x.pth")
    by_default, plainly = imported(tmp_path / "x.pth"), imported(tmp_path / "x.pth", ema=False)
    assert same(by_default.tensors, others)
    assert same(plainly.tensors, weights)
    assert "averaged (EMA) weights" in by_default.notes[0]
    assert "--no-ema takes those" in by_default.notes[0]


def test_a_choice_that_the_file_does_not_have_is_refused(tmp_path: Path, weights: Table) -> None:
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match=r"no averaged \(EMA\) weights"):
        imported(tmp_path / "x.pth", ema=True)


def test_several_models_are_named_and_one_is_chosen_by_its_prefix(tmp_path: Path, weights: Table) -> None:
    others = {name: tensor + 1 for name, tensor in weights.items()}
    document = {"state_dict": under("module.left.", weights) | under("module.right.", others)}
    torch.save(document, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match=r"'state_dict\.module\.left\.'.*add --prefix"):
        imported(tmp_path / "x.pth")
    for prefix in ("state_dict.module.right.", "module.right", "module.right."):
        assert same(imported(tmp_path / "x.pth", prefix=prefix).tensors, others)
    with pytest.raises(NotFound, match="did you mean"):
        imported(tmp_path / "x.pth", prefix="module.rihgt.")


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (["blocks.0.attn.qkv.lora_A.weight"], "--format peft"),
        (["blocks.0.attn.qkv.base_layer.weight"], "merge_and_unload"),
        (["blocks.0.fact.FacTu.weight"], "--format petl-vision"),
        (["fc_norm.weight", "fc_norm.bias"], "--option global_pool=avg"),
    ],
)
def test_names_that_say_whose_they_are_lead_to_what_reads_them(
    names: list[str], remedy: str, tmp_path: Path, weights: Table
) -> None:
    torch.save(weights | {name: torch.ones(2) for name in names}, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match=remedy):
        imported(tmp_path / "x.pth")


def test_another_depth_and_size_are_read_off_the_tensors(tmp_path: Path, weights: Table) -> None:
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match="use --option depth=1 --image-size 32"):
        imported(tmp_path / "x.pth", image_size=None, options={"embed_dim": 12})


def test_images_of_another_number_of_channels_are_refused_by_name(tmp_path: Path, weights: Table) -> None:
    torch.save(weights | {"patch_embed.proj.weight": torch.ones(12, 1, 16, 16)}, tmp_path / "grey.pth")
    with pytest.raises(Unsupported, match=r"of 1 channel, and images have three.*repeat\(1, 3, 1, 1\)"):
        imported(tmp_path / "grey.pth")
    torch.save(weights | {"patch_embed.proj.weight": torch.ones(12, 4, 16, 16)}, tmp_path / "x.pth")
    with pytest.raises(Unsupported, match="images of 4 channels"):
        imported(tmp_path / "x.pth")


@pytest.mark.parametrize("option", ["in_chans", "img_size", "num_classes", "pretrained"])
@pytest.mark.parametrize("source", [f"random:{TINY}", f"{TINY}.augreg_in21k", "x.pth"])
def test_options_that_corolla_sets_itself_are_refused(option: str, source: str) -> None:
    with pytest.raises(InvalidInput, match=f"corolla sets {option} itself"):
        read(source, Request(options={option: 1}))


# Other names


@pytest.mark.parametrize("release", [4, 5])
@pytest.mark.parametrize("architecture", [TINY, "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_a_vit_of_transformers_is_the_same_backbone(architecture: str, release: int, tmp_path: Path) -> None:
    size, options = (32, SMALL) if architecture == TINY else (28, {"depth": 1})
    model = timm_model(config_of(architecture, size, depth=1).model_dump_json())
    if architecture == TINY:
        model = timm.create_model(TINY, num_classes=0, img_size=size, **SMALL)
    weights = {name: tensor.detach() for name, tensor in tensors_of(model).items()}
    torch.save(spelled(weights, release=release), tmp_path / "pytorch_model.bin")
    found = imported(
        tmp_path / "pytorch_model.bin", architecture=architecture, image_size=size, options=options
    )
    assert found.tensors.keys() == weights.keys()
    for name, tensor in found.tensors.items():
        torch.testing.assert_close(tensor, weights[name])
    assert " of transformers" in found.notes[0]


def test_dinov2s_registers_are_what_timm_makes_of_them(tmp_path: Path) -> None:
    architecture = "vit_small_patch14_reg4_dinov2"
    model = timm.create_model(architecture, num_classes=0, img_size=28, depth=1)
    published = {name: torch.randn(t.shape) for name, t in model.state_dict().items()}
    published["register_tokens"] = published.pop("reg_token")
    published["pos_embed"] = torch.randn(1, 5, 384)
    torch.save(published | {"mask_token": torch.ones(1, 384)}, tmp_path / "x.pth")
    found = imported(tmp_path / "x.pth", architecture=architecture, image_size=28, options={"depth": 1})
    assert same(found.tensors, checkpoint_filter_fn(published | {"mask_token": torch.ones(1)}, model))


# Folders


def test_a_folder_of_timms_hub_says_what_it_is(tmp_path: Path, weights: Table) -> None:
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    config = {
        "architecture": TINY,
        "model_args": {"img_size": 32, **SMALL},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "tag": "mine"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read(str(tmp_path), Request())
    beside = read(str(tmp_path / "model.safetensors"), Request())
    assert same(found.tensors, weights)
    assert beside.config == found.config
    assert (found.config.architecture, found.config.image_size) == (TINY, 32)  # timm has no such tag
    assert (found.config.mean, found.config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert found.config.options == SMALL
    assert found.normalisation == "as the folder says"


def test_a_file_of_our_own_says_what_it_is(tmp_path: Path, weights: Table) -> None:
    header = {"corolla": "1", "architecture": TINY, "image_size": "32", "options": json.dumps(SMALL)}
    header |= {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"}
    safetensors.torch.save_file(weights | HEAD, tmp_path / "x.safetensors", header)
    found = read(str(tmp_path / "x.safetensors"), Request())
    assert same(found.tensors, weights)
    assert (found.config.image_size, found.config.mean) == (32, (0.1, 0.2, 0.3))


def test_a_folder_of_transformers_says_what_it_is_and_may_be_in_parts(tmp_path: Path) -> None:
    model = timm.create_model(TINY, num_classes=2, img_size=32, depth=1)
    weights = dict(model.state_dict())
    names = spelled(weights, release=4)
    half = len(names) // 2
    parts = [dict(list(names.items())[:half]), dict(list(names.items())[half:])]
    for number, part in enumerate(parts):
        safetensors.torch.save_file(
            {n: t.contiguous() for n, t in part.items()}, tmp_path / f"{number}.safetensors"
        )
    index = {name: f"{number}.safetensors" for number, part in enumerate(parts) for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {"model_type": "vit", "hidden_size": 192, "num_hidden_layers": 1, "num_attention_heads": 3}
    config |= {"intermediate_size": 768, "layer_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"patch_size": 16, "image_size": 32, "id2label": {"0": "cat", "1": "dog"}})
    )
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})
    )
    found = read(str(tmp_path), Request())
    assert (found.config.architecture, found.config.image_size) == (TINY, 32)
    assert found.config.options == {"depth": 1}
    assert all(torch.equal(t, weights[n]) for n, t in found.tensors.items())
    assert checkpoint.read(tmp_path).said.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has none of model.safetensors"),
        ({"adapter_config.json": "{}"}, "corolla adapters import --format peft"),
        ({"model.safetensors": "", "config.json": "["}, "it is empty"),
        ({"model.safetensors.index.json": "{}"}, "weight_map"),
    ],
)
def test_a_folder_that_is_no_model_says_so(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises((InvalidInput, NotFound), match=said):
        read(str(tmp_path), Request())


def test_a_tag_that_timm_does_not_have_names_near_ones(tmp_path: Path, weights: Table) -> None:
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(NotFound, match="did you mean augreg_in21k"):
        imported(tmp_path / "x.pth", architecture=f"{TINY}.augreg_in21")


def test_another_model_of_transformers_is_refused_by_name(tmp_path: Path, weights: Table) -> None:
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(Unsupported, match="'swin' of transformers"):
        read(str(tmp_path), Request())
