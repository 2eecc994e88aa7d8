"""Models of the real transformers, saved by it, compute the same as a backbone."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from model_store.sources.backbones import Imported, Request, read
from model_store.sources.families import clip, dinov2, dinov3, registry, siglip, vit
from petl_vit.architecture import describe
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.executors.sliced import Sliced
from petl_vit.vit import FrozenViT
from tests.model_store.sources.families.models import CASES, PLAIN, SIDE, images, model, randomised
from tests.petl_vit.backbones import relative


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


def saved(folders: Path, label: str) -> Path:
    folder = folders / label.replace(", ", "-").replace(" ", "-")
    if not folder.exists():
        model(label).save_pretrained(folder)
    return folder


def features(found: Imported, side: int = SIDE) -> torch.Tensor:
    frozen = FrozenViT(found.config, found.tensors, image_size=side)
    with torch.no_grad():
        return frozen.forward(images(side), Sliced(frozen, []))


def theirs(label: str, side: int = SIDE, **keywords: Any) -> torch.Tensor:
    net = model(label)
    net = getattr(net, "vision_model", net)
    with torch.no_grad():
        return CASES[label].feature(net(images(side), **keywords))


@pytest.mark.parametrize("label", CASES)
def test_a_saved_folder_computes_what_transformers_does(label: str, folders: Path) -> None:
    found = read(str(saved(folders, label)), Request())
    assert relative(features(found), theirs(label)) <= 1e-5
    assert "which were converted to timm's" in " ".join(found.notes)


@pytest.mark.parametrize("label", ["ViT", "DINOv2, gated", "DINOv3, gated", "CLIP", "SigLIP"])
def test_names_in_memory_are_read_as_those_of_files_are(label: str, folders: Path, tmp_path: Path) -> None:
    config = json.loads((saved(folders, label) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {f"model.{name}": tensor for name, tensor in model(label).state_dict().items()}
    torch.save({"state_dict": tensors}, tmp_path / "pytorch_model.bin")
    found, other = read(str(tmp_path), Request()), read(str(saved(folders, label)), Request())
    assert found.config == other.config
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in other.tensors.items())


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("ViT", vit.TRANSFORMERS),
        ("DINOv2", dinov2.TRANSFORMERS),
        ("DINOv2, gated", dinov2.TRANSFORMERS_GATED),
        ("DINOv3", dinov3.TRANSFORMERS),
        ("DINOv3, gated", dinov3.TRANSFORMERS_GATED),
        ("CLIP", clip.TRANSFORMERS),
        ("SigLIP", siglip.TRANSFORMERS),
    ],
)
def test_names_lead_there_and_back(label: str, names: registry.Names, folders: Path) -> None:
    file = safetensors.torch.load_file(saved(folders, label) / "model.safetensors")
    known = {name: t for name, t in file.items() if "mask_token" not in name and "pooler" not in name}
    ours, found = registry.ours(known, "x")
    assert found is names
    back = names.theirs(ours)
    assert back.keys() == known.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in known.items())


@pytest.mark.parametrize("label", ["DINOv2", "DINOv2, registers", "DINOv3"])
def test_another_image_size_is_computed_as_transformers_does(label: str, folders: Path) -> None:
    keywords = {} if "v3" in label else {"interpolate_pos_encoding": True}
    found = read(str(saved(folders, label)), Request())
    try:
        expected = theirs(label, 70, **keywords)
    except TypeError:  # DINOv2 always resamples
        expected = theirs(label, 70)
    assert relative(features(found, 70), expected) <= 1e-5


def test_the_epsilon_of_the_config_is_computed_and_said(folders: Path) -> None:
    found = read(str(saved(folders, "ViT")), Request())
    assert found.config.options["norm_eps"] == describe(found.config).eps == 1e-12
    assert "an epsilon of 1e-12" in " ".join(found.notes)
    wrong = found.config.model_copy(update={"options": dict(found.config.options) | {"norm_eps": 0.01}})
    other = FrozenViT(wrong, found.tensors)
    with torch.no_grad():
        assert relative(other.forward(images(), Sliced(other, [])), theirs("ViT")) > 1e-4
    assert "norm_eps" not in read(str(saved(folders, "DINOv2")), Request()).config.options


def test_a_file_without_its_config_says_that_the_epsilon_is_not_known(folders: Path, tmp_path: Path) -> None:
    alone = tmp_path / "vit.safetensors"
    alone.write_bytes((saved(folders, "ViT") / "model.safetensors").read_bytes())
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    request = Request(architecture="vit_tiny_patch16_224", image_size=SIDE, options=sizes)
    assert "--option norm_eps=1e-12" in " ".join(read(str(alone), request).notes)
    given = Request(architecture=request.architecture, image_size=SIDE, options=sizes | {"norm_eps": 1e-12})
    assert relative(features(read(str(alone), given)), theirs("ViT")) <= 1e-5
    assert "norm_eps" not in " ".join(read(str(alone), given).notes)


def test_configs_mean_what_transformers_takes_them_to_mean() -> None:
    classes = {
        "vit": "ViTConfig",
        "deit": "DeiTConfig",
        "vit_mae": "ViTMAEConfig",
        "vit_msn": "ViTMSNConfig",
        "dinov2": "Dinov2Config",
        "dinov2_with_registers": "Dinov2WithRegistersConfig",
        "dinov3_vit": "DINOv3ViTConfig",
        "clip_vision_model": "CLIPVisionConfig",
        "siglip_vision_model": "SiglipVisionConfig",
    }
    ours = {k: v for family in (vit, dinov2, dinov3, clip, siglip) for k, v in family.DEFAULTS.items()}
    assert ours.keys() == classes.keys()
    for kind, defaults in ours.items():
        config = getattr(transformers, classes[kind])()
        assert {n: v for n, v in defaults.items() if getattr(config, n, v) != v} == {}, kind


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_type": "swin"}, "'swin' of transformers"),
        ({"model_type": "convnextv2"}, "'convnextv2' of transformers"),
        ({"model_type": "bert"}, "'bert' of transformers"),
        ({"hidden_act": "relu"}, "has 'relu'"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"layer_norm_eps": 2.0}, "layer_norm_eps is 2.0"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"image_size": [28, 42]}, "28 x 42"),
        ({"image_size": 30}, r"30 px is not a multiple.*use 28"),
        ({"model_type": "dinov3_vit", "rope_theta": 10000.0}, "rope_theta 10000, and timm's have 100"),
        ({"model_type": "dinov3_vit", "image_size": 30}, r"30 px is not a multiple.*use 28"),
        ({"model_type": "dinov3_vit", "proj_bias": False}, "proj_bias is false"),
        ({"model_type": "dinov3_vit", "use_gated_mlp": True, "hidden_act": "gelu"}, "not 'silu'"),
        ({"num_hidden_layers": 3}, "use --option depth=2"),
    ],
)
def test_a_config_that_the_forward_does_not_compute_is_refused(
    changes: dict[str, Any], problem: str, folders: Path, tmp_path: Path
) -> None:
    folder = saved(folders, "DINOv3" if "dinov3" in str(changes) else "ViT")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises((Unsupported, InvalidInput), match=problem):
        read(str(tmp_path), Request())


# Wrappers


def test_both_towers_of_clip_are_one_vit(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(vision_config=PLAIN, text_config=text | {"vocab_size": 99})
    net = randomised(transformers.CLIPModel(config))
    net.save_pretrained(tmp_path)
    found = read(str(tmp_path), Request())
    with torch.no_grad():
        expected = net.vision_model(images()).pooler_output
    assert relative(features(found), expected) <= 1e-5


def test_classifiers_are_backbones_with_what_they_read_pooled(tmp_path: Path) -> None:
    config = transformers.Dinov2Config(**CASES["DINOv2"].fields, num_labels=3)
    net = randomised(transformers.Dinov2ForImageClassification(config))
    net.save_pretrained(tmp_path)
    found = read(str(tmp_path), Request())
    assert found.config.options["global_pool"] == "token+avg"
    with torch.no_grad():
        assert relative(net.classifier(features(found)), net(images()).logits) <= 1e-5
    assert "its head of 3 classes was left out" in " ".join(found.notes)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_a_classifier_that_reads_another_feature_is_left_out(kind: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{kind}Config")(vision_config=PLAIN, num_labels=3)
    net = randomised(getattr(transformers, f"{kind}ForImageClassification")(config))
    net.save_pretrained(tmp_path)
    found = read(str(tmp_path), Request())
    assert "its classifier was left out, as it reads the mean of the patches" in " ".join(found.notes)
    assert describe(found.config).pool == ("token" if kind == "CLIP" else "map")


def test_mae_is_the_encoder_of_its_pretraining(tmp_path: Path) -> None:
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = transformers.ViTMAEConfig(**PLAIN, **decoder, decoder_intermediate_size=16, mask_ratio=0.0)
    net = randomised(transformers.ViTMAEForPreTraining(config))
    net.save_pretrained(tmp_path)
    found = read(str(tmp_path), Request())
    with torch.no_grad():
        expected = net.vit(images()).last_hidden_state[:, 0]
    assert relative(features(found), expected) <= 1e-5
    assert found.config.mean == (0.485, 0.456, 0.406)


# Images


@pytest.mark.parametrize(
    ("label", "processor", "mean", "std"),
    [
        (
            "ViT",
            {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
            (0.1, 0.2, 0.3),
            (0.4, 0.5, 0.6),
        ),
        ("ViT", {"do_normalize": False}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        (
            "ViT",
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3},
            (0.5, 0.5, 0.5),
            (0.2, 0.2, 0.2),
        ),
        ("SigLIP", {}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("CLIP", {}, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("DINOv3", {}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_mean_and_std_are_those_of_the_folder(
    label: str,
    processor: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    file: str,
    folders: Path,
    tmp_path: Path,
) -> None:
    folder = saved(folders, label)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    document = processor if file.startswith("pre") else {"image_processor": processor}
    (tmp_path / file).write_text(json.dumps(document))
    found = read(str(tmp_path), Request())
    assert (found.config.mean, found.config.std) == (mean, std)


def test_how_images_were_resized_is_said(folders: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((saved(folders, "ViT") / name).read_bytes())
    processor = {"resample": 2, "size": {"height": 56, "width": 56}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    notes = " ".join(read(str(tmp_path), Request()).notes)
    assert "bilinear interpolation" in notes
    assert "--image-size 56" in notes


def test_half_precision_is_accepted_and_said(folders: Path, tmp_path: Path) -> None:
    folder = saved(folders, "DINOv3")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    file = safetensors.torch.load_file(folder / "model.safetensors")
    for dtype in (torch.float16, torch.bfloat16):
        halves = {name: tensor.to(dtype) for name, tensor in file.items()}
        safetensors.torch.save_file(halves, tmp_path / "model.safetensors")
        found = read(str(tmp_path), Request())
        assert str(dtype).removeprefix("torch.") in " ".join(found.notes)
        assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}
        assert relative(features(found), theirs("DINOv3")) < 0.05


def test_a_grid_that_leaves_pixels_over_is_the_smaller_image(tmp_path: Path) -> None:
    """As SigLIP so400m at 384 px: its patches are those of 378 px."""
    config = transformers.SiglipVisionConfig(**PLAIN | {"image_size": SIDE + 2})
    net = randomised(transformers.SiglipVisionModel(config))
    net.save_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match="use 28"):
        read(str(tmp_path), Request())
    found = read(str(tmp_path), Request(image_size=SIDE))
    frozen = FrozenViT(found.config, found.tensors)
    whole = images(SIDE + 2)
    with torch.no_grad():
        ours = frozen.forward(whole[..., :SIDE, :SIDE], Sliced(frozen, []))
        assert relative(ours, net(whole).pooler_output) <= 1e-5
