"""PEFT folders of wrapped models, of transformers' ViT, in sub-folders and pickled."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model_store.interchange import peft_export, peft_types
from model_store.interchange.peft_names import CONFIG, PICKLED, WEIGHTS
from model_store.store import Store
from petl_vit.errors import InvalidInput, NotFound, Unsupported
from tests.model_store.real import Real
from tests.petl_vit.backbones import relative

PEFT = "base_model.model."


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    made = Real(Store.open(str(tmp_path_factory.mktemp("store"))))
    made.publish("lora")
    return made


@pytest.fixture
def folder(real: Real, tmp_path: Path) -> Path:
    """`lora` as PEFT saves it."""
    made = tmp_path / "peft"
    made.mkdir()
    for file, data in peft_export.write(real.store, real.store.adapters.manifest("zoo", "lora", 1)).items():
        (made / file).write_bytes(data)
    return made


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load((folder / WEIGHTS).read_bytes())


def register(real: Real, folder: Path, name: str) -> list[str]:
    return peft_types.read(folder).register(real.store, real.task, name=name, classes=None)[1]


@pytest.mark.parametrize("prefix", ["backbone", "_orig_mod", "module", "model.vit", "module._orig_mod"])
@pytest.mark.parametrize("head", ["inside", "beside", "classifier"])
def test_a_wrapped_model_is_the_same_adapter(real: Real, folder: Path, prefix: str, head: str) -> None:
    places = {"inside": f"{prefix}.head", "beside": "head", "classifier": "classifier"}
    found = {}
    for full, tensor in tensors_of(folder).items():
        name = full.removeprefix(PEFT)
        wrapped = name.replace("head", places[head]) if name.startswith("head") else f"{prefix}.{name}"
        found[PEFT + wrapped] = tensor
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(found))
    notes = register(real, folder, "wrapped")
    assert f"the prefix '{prefix}.' was taken off all names" in notes
    assert torch.equal(real.logits("wrapped"), real.logits("lora"))
    assert real.store.adapters.versions("zoo", "wrapped") == [1]


def test_adapters_of_two_models_are_refused_by_their_prefixes(real: Real, folder: Path) -> None:
    found = tensors_of(folder)
    further = {n.replace(PEFT, f"{PEFT}other."): t + 1 for n, t in found.items() if "lora_" in n}
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(found | further))
    with pytest.raises(Unsupported, match=r"several models.*'', 'other'"):
        register(real, folder, "two")


OLD = {
    "attention.attention.query": ("attn.qkv", 0),
    "attention.attention.value": ("attn.qkv", 2),
    "attention.output.dense": ("attn.proj", None),
    "intermediate.dense": ("mlp.fc1", None),
    "output.dense": ("mlp.fc2", None),
}
NEW = {
    "attention.q_proj": ("attn.qkv", 0),
    "attention.v_proj": ("attn.qkv", 2),
    "attention.o_proj": ("attn.proj", None),
    "mlp.fc1": ("mlp.fc1", None),
    "mlp.fc2": ("mlp.fc2", None),
}
SIZES = {"attn.qkv": (192, 192), "attn.proj": (192, 192), "mlp.fc1": (192, 768), "mlp.fc2": (768, 192)}


@pytest.mark.parametrize(
    ("layers", "sites"), [("vit.encoder.layer", OLD), ("vit.layers", NEW), ("model.deit.layers", NEW)]
)
def test_loras_of_transformers_queries_and_values_are_one_of_qkv(
    real: Real, folder: Path, layers: str, sites: dict[str, tuple[str, int | None]]
) -> None:
    """The logits of timm's model with each change merged into its weights."""
    torch.manual_seed(0)
    model, found = real.timm_frozen(), {}
    weights = model.state_dict()
    for block in range(2):
        for site, (module, part) in sites.items():
            rank = 3 if part == 2 else 4
            into, out = SIZES[module]
            a, b = 0.1 * torch.randn(rank, into), 0.1 * torch.randn(out, rank)
            found[f"{PEFT}{layers}.{block}.{site}.lora_A.weight"] = a
            found[f"{PEFT}{layers}.{block}.{site}.lora_B.weight"] = b
            rows = slice(None) if part is None else slice(part * 192, (part + 1) * 192)
            weights[f"blocks.{block}.{module}.weight"][rows] += (16 / rank) * b @ a
    head = {"weight": torch.randn(5, 192), "bias": torch.randn(5)}
    found |= {f"{PEFT}classifier.{kind}": tensor for kind, tensor in head.items()}
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(found))
    config: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": list(sites)}
    config |= {"modules_to_save": ["classifier"], "base_model_name_or_path": "google/vit-base"}
    config |= {"rank_pattern": {"value|v_proj": 3}}
    (folder / CONFIG).write_text(json.dumps(config))
    name = layers.replace(".", "-")
    notes = " ".join(register(real, folder, name))
    model.load_state_dict(weights | {f"head.{kind}": tensor for kind, tensor in head.items()})
    with torch.no_grad():
        assert relative(real.logits(name), model(real.images)) <= 1e-5
    assert "LoRAs of queries, keys and values" in notes
    assert "trained over 'google/vit-base'" in notes


def test_a_named_adapter_is_in_a_folder_of_its_own(folder: Path) -> None:
    named = folder.parent / "named"
    named.mkdir()
    folder.rename(named / "flowers")
    with pytest.raises(NotFound, match=r"write .*named/flowers"):
        peft_types.read(named)


def test_a_pickled_adapter_is_read_without_its_code(real: Real, folder: Path) -> None:
    torch.save(tensors_of(folder), folder / PICKLED)
    (folder / WEIGHTS).unlink()
    assert "safe_serialization=True" in register(real, folder, "pickled")[0]
    assert torch.equal(real.logits("pickled"), real.logits("lora"))


@pytest.mark.parametrize("file", [WEIGHTS, PICKLED])
def test_a_pointer_of_git_lfs_is_called_one(folder: Path, file: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    with pytest.raises(InvalidInput, match=f"{file}: it is a pointer of Git LFS.*git lfs pull"):
        peft_types.read(folder)


def test_what_is_no_folder_of_peft_leads_to_its_format(folder: Path) -> None:
    with pytest.raises(NotFound, match="a file of a PEFT folder; give the folder"):
        peft_types.read(folder / WEIGHTS)
    (folder / "x.pth").write_bytes(b"")
    with pytest.raises(NotFound, match="--format timm"):
        peft_types.read(folder / "x.pth")
    (folder / CONFIG).rename(folder / "config.json")
    (folder / WEIGHTS).rename(folder / "model.safetensors")
    with pytest.raises(NotFound, match="whole model: --format timm"):
        peft_types.read(folder)
