"""What a path holds is told by what is in it."""

import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model_store.interchange import detection
from model_store.interchange.peft_names import CONFIG, WEIGHTS
from petl_vit.errors import InvalidInput, NotFound
from tests.model_store.interchange.peft_folders import qkv


def test_a_folder_of_peft_is_one_by_its_config(tmp_path: Path) -> None:
    folder = qkv(tmp_path / "a")
    assert detection.detect(folder)[:2] == ("peft", folder)
    for name in (CONFIG, WEIGHTS):
        assert detection.detect(folder / name)[:2] == ("peft", folder)


def test_the_one_named_adapter_of_a_folder_is_meant(tmp_path: Path) -> None:
    folder = qkv(tmp_path / "pets")
    assert detection.detect(tmp_path)[:2] == ("peft", folder)
    qkv(tmp_path / "birds")
    with pytest.raises(InvalidInput, match=r"2 folders of PEFT; import each by itself: .*birds, .*pets"):
        detection.detect(tmp_path)


def test_an_archive_is_one_under_any_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        file.writestr("corolla.json", "{}")
    assert detection.detect(tmp_path / "x.pt").kind == "archive"


def test_checkpoints_are_told_apart_by_their_tensors(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"blocks.0.fact.FacTu.weight": torch.ones(2)}}, tmp_path / "a.pt")
    assert detection.detect(tmp_path / "a.pt").kind == "petl-vision"
    (tmp_path / "b.bin").write_bytes(safetensors.torch.save({"head.weight": torch.ones(2)}))
    assert detection.detect(tmp_path / "b.bin").kind == "timm"
    (tmp_path / "hub").mkdir()
    (tmp_path / "b.bin").rename(tmp_path / "hub" / "model.safetensors")
    assert detection.detect(tmp_path / "hub").kind == "timm"


def test_loras_without_a_config_lead_to_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(safetensors.torch.save({"layers.0.attention.q_proj.lora_A.weight": torch.ones(1, 2)}))
    with pytest.raises(InvalidInput, match=rf"without a config.*as {WEIGHTS} beside its {CONFIG}"):
        detection.detect(file)


def test_what_is_nothing_of_these_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(InvalidInput, match=rf"neither an {CONFIG} .* it has README\.md"):
        detection.detect(tmp_path)
    with pytest.raises(NotFound, match="does not exist"):
        detection.detect(tmp_path / "absent")
    with pytest.raises(InvalidInput, match=r"README\.md: the checkpoint is not one of tensors"):
        detection.detect(tmp_path / "README.md")
