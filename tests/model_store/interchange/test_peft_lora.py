"""LoRA folders of PEFT: the real library gives our logits from ours, and we give its logits from its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model_store.interchange import peft_export, peft_types
from model_store.interchange.peft_names import CONFIG, WEIGHTS
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound, Unsupported
from tests.model_store.real import CLASSES, Real
from tests.petl_vit.backbones import relative

ALL = ("qkv", "proj", "fc1", "fc2")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    made = Real(Store.open(str(tmp_path_factory.mktemp("store"))))
    made.publish("lora")
    made.publish("lora", "wide", config={"rank": 4, "targets": ALL})
    return made


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft", reason="needs Hugging Face PEFT (the dev extra)")


def exported(real: Real, folder: Path, name: str = "lora") -> Path:
    for file, data in peft_export.write(real.store, real.store.adapters.manifest("zoo", name, 1)).items():
        (folder / file).write_bytes(data)
    return folder


def imported(real: Real, folder: Path, name: str, classes: tuple[str, ...] | None = None) -> list[str]:
    """Register a folder; what the user is told."""
    return peft_types.read(folder).register(real.store, real.task, name=name, classes=classes)[1]


def trained(peft: Any, real: Real, folder: Path, **settings: Any) -> Tensor:
    """A folder that PEFT saved of a random LoRA, and the logits of PEFT's model."""
    settings = {"r": 3, "target_modules": ["qkv"], "modules_to_save": ["head"]} | settings
    torch.manual_seed(3)
    model = peft.get_peft_model(real.timm_frozen(), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(real.images)


def changed(folder: Path, **settings: object) -> Path:
    """The folder with settings of its config replaced."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def with_tensors(folder: Path, **tensors: Tensor | None) -> Path:
    """The folder with tensors added, replaced or, for None, left out."""
    path = folder / WEIGHTS
    found = safetensors.torch.load(path.read_bytes())
    for name, tensor in tensors.items():
        found.pop(f"base_model.model.{name}", None)
        if tensor is not None:
            found[f"base_model.model.{name}"] = tensor
    path.write_bytes(safetensors.torch.save(found))
    return folder


# With the real library


@pytest.mark.parametrize("name", ["lora", "wide"])
def test_peft_gives_our_logits_from_our_folder(peft: Any, real: Real, tmp_path: Path, name: str) -> None:
    model = peft.PeftModel.from_pretrained(real.timm_frozen(), str(exported(real, tmp_path, name)))
    with torch.no_grad():
        assert relative(model.eval()(real.images), real.logits(name)) <= 1e-5


@pytest.mark.parametrize(
    ("label", "settings"),
    [
        ("plain", {}),
        ("alpha", {"lora_alpha": 12}),
        ("rs", {"lora_alpha": 12, "use_rslora": True}),
        ("names", {"target_modules": ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]}),
        ("regex", {"target_modules": r".*\.(qkv|fc2)"}),
        ("ranks", {"target_modules": ["qkv", "fc1"], "rank_pattern": {"fc1": 5}, "lora_alpha": 7}),
        ("alphas", {"target_modules": ["qkv", "fc1"], "alpha_pattern": {r"blocks\.1\.attn\.qkv": 20}}),
        ("one-block", {"layers_to_transform": [1], "layers_pattern": "blocks"}),
        ("dropout", {"lora_dropout": 0.3, "init_lora_weights": "gaussian"}),
    ],
)
def test_we_give_pefts_logits_from_its_folder(
    peft: Any, real: Real, tmp_path: Path, label: str, settings: dict[str, Any]
) -> None:
    expected = trained(peft, real, tmp_path, **settings)
    notes = imported(real, tmp_path, f"from-{label}")
    assert relative(real.logits(f"from-{label}"), expected) <= 1e-5
    zeros = [note for note in notes if "stored as zeros: blocks.0.attn.qkv" in note]
    assert bool(zeros) == (label == "one-block")


def test_pefts_proj_that_also_means_the_patch_embedding_is_refused_with_the_remedy(
    peft: Any, real: Real, tmp_path: Path
) -> None:
    trained(peft, real, tmp_path, target_modules=["qkv", "proj"])
    with pytest.raises(Unsupported, match=r"patch_embed\.proj, a convolution.*attn\.proj"):
        imported(real, tmp_path, "refused")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["qkv", "head"], "modules_to_save": None}, r"head\.lora_A"),
        ({"modules_to_save": ["head", "norm"]}, "modules_to_save 'norm'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
    ],
)
def test_what_peft_saves_and_we_cannot_represent_is_refused_by_name(
    peft: Any, real: Real, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    trained(peft, real, tmp_path, **settings)
    with pytest.raises(Unsupported, match=said):
        imported(real, tmp_path, "refused")


# Without it


def test_our_own_folder_comes_back_as_the_same_model(real: Real, tmp_path: Path) -> None:
    for name in ("lora", "wide"):
        notes = imported(real, exported(real, tmp_path, name), f"{name}-back", CLASSES)
        assert notes == []
        assert torch.equal(real.logits(f"{name}-back"), real.logits(name))
    found = peft_types.read(tmp_path).register(real.store, real.task, name="wide-back", classes=None)[0]
    assert found.known
    assert found.manifest.version == 1


def test_a_folder_says_that_its_heads_rows_were_taken_in_the_tasks_order(real: Real, tmp_path: Path) -> None:
    assert "order of the task's classes" in imported(real, exported(real, tmp_path), "told")[0]


def test_a_permuted_class_list_is_matched_by_name(real: Real, tmp_path: Path) -> None:
    imported(real, exported(real, tmp_path), "permuted", tuple(reversed(CLASSES)))
    assert relative(real.logits("permuted"), real.logits("lora").flip(1)) <= 1e-6


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("ant", "bee", "cat", "dog", "fox"), "differ in eel, fox"),
        (("ant", "ant", "cat", "dog", "eel"), "differ in bee"),
        (("ant", "bee"), "differ in cat, dog, eel"),
    ],
)
def test_other_classes_are_refused(real: Real, tmp_path: Path, classes: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        imported(real, exported(real, tmp_path), "other", classes)


def test_only_lora_is_exported(real: Real) -> None:
    manifest = real.publish("ssf")
    with pytest.raises(Unsupported, match=r"zoo/ssf:1 is of the method ssf.*--format archive"):
        peft_export.write(real.store, manifest)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fan_in_fan_out": True}, "fan_in_fan_out cannot be represented"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"use_of_a_later_peft": True}, "use_of_a_later_peft"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights 'corda'"),
    ],
)
def test_a_setting_that_changes_the_meaning_is_refused_by_name(
    real: Real, tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(Unsupported, match=f"{CONFIG}: {said}"):
        imported(real, changed(exported(real, tmp_path), **settings), "refused")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": "three"}, "r: Input should be a valid integer"),
        ({"r": 0}, "greater than or equal to 1"),
        ({"r": 8}, "has rank 3, the config says 8"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"alpha_pattern": {"(": 2.0}}, "is not a pattern"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    real: Real, tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(Corrupt, match=said):
        imported(real, changed(exported(real, tmp_path), **settings), "refused")


@pytest.mark.parametrize(
    ("tensors", "error", "said"),
    [
        ({"blocks.0.attn.qkv.lora_A.weight": None}, Corrupt, "no pair of lora_A and lora_B"),
        ({"blocks.0.attn.qkv.lora_A.weight": torch.full((3, 192), float("nan"))}, Corrupt, "NaN"),
        ({"blocks.0.attn.qkv.lora_A.weight": torch.zeros(3, 100)}, InvalidInput, "takes 100"),
        ({"blocks.0.attn.qkv.lora_B.weight": torch.zeros(576, 5)}, Corrupt, "ranks 3 and 5 differ"),
        ({"blocks.0.attn.qkv.lora_magnitude_vector": torch.ones(3)}, Unsupported, "magnitude_vector"),
        ({"norm.bias": torch.ones(3)}, Unsupported, r"norm\.bias"),
        (
            {
                f"blocks.7.attn.qkv.lora_{k}.weight": torch.ones(s)
                for k, s in (("A", (3, 192)), ("B", (576, 3)))
            },
            Unsupported,
            r"blocks\.7\.attn\.qkv, and vit_tiny_patch16_224 has 2 blocks",
        ),
        ({"head.weight": None, "head.bias": None}, Corrupt, "lost its head.*--head base"),
        ({"head.bias": None}, Corrupt, "not a linear layer with a bias"),
        (
            {"head.weight": torch.ones(7, 192), "head.bias": torch.ones(7)},
            InvalidInput,
            "7 rows, task 'zoo' has 5",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    real: Real, tmp_path: Path, tensors: dict[str, Tensor | None], error: type[CorollaError], said: str
) -> None:
    with pytest.raises(error, match=said):
        imported(real, with_tensors(exported(real, tmp_path), **tensors), "bad")


def test_a_folder_without_its_files_says_what_to_do(real: Real, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not a folder"):
        peft_types.read(tmp_path / "absent")
    exported(real, tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(NotFound, match="save_pretrained"):
        peft_types.read(tmp_path)
    (tmp_path / CONFIG).write_text("[")
    with pytest.raises(Corrupt, match="not a JSON object"):
        peft_types.read(tmp_path)
