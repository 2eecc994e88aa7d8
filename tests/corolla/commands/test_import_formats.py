"""What is imported under the name of another format leads to its own."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from corolla.commands.adapters import adapters
from corolla.commands.backbones import backbones
from model_store.interchange import archive
from petl_vit.errors import InvalidInput, NotFound
from tests.corolla.runner import printed
from tests.model_store.world import World

KINDS = {
    "peft": "a folder of PEFT; write --format peft",
    "archive": "an archive of corolla; write --format archive",
    "timm": "a checkpoint; write --format timm",
}


@pytest.fixture
def paths(published: World, tmp_path: Path) -> dict[str, Path]:
    """One of each format."""
    made = {kind: tmp_path / name for kind, name in {"archive": "x", "timm": "y", "peft": "z"}.items()}
    made["peft"].mkdir()
    (made["peft"] / "adapter_config.json").write_text("{}")
    torch.save({"a": torch.ones(1)}, made["timm"])
    manifest = published.store.adapters.manifest("digits", "lora", 1)
    made["archive"].write_bytes(archive.write(published.store, manifest))
    return made


@pytest.mark.parametrize("asked", ["archive", "timm", "peft"])
@pytest.mark.parametrize("actual", KINDS)
def test_a_path_of_another_format_says_which(
    asked: str, actual: str, paths: dict[str, Path], published: World
) -> None:
    if actual == asked:
        return
    said = KINDS[actual] if (actual, asked) != ("timm", "peft") else "a whole checkpoint has --format timm"
    with pytest.raises((InvalidInput, NotFound), match=said):
        printed(
            adapters, "import", str(paths[actual]), "--format", asked, "--name", "x", store=published.folder
        )


def test_a_setting_of_another_format_is_refused(paths: dict[str, Path], published: World) -> None:
    words = ["import", str(paths["peft"]), "--format", "peft", "--name", "x"]
    for setting in (["--scale", "1"], ["--prefix", "module."], ["--no-ema"]):
        with pytest.raises(InvalidInput, match="--format peft has no use for it"):
            printed(adapters, *words, *setting, store=published.folder)


def test_an_adapter_that_is_imported_as_a_backbone_leads_to_its_format(
    paths: dict[str, Path], published: World
) -> None:
    for kind in ("archive", "peft"):
        with pytest.raises(InvalidInput, match=f"corolla adapters import --format {kind}"):
            printed(backbones, "import", str(paths[kind]), store=published.folder)


def test_a_model_of_somebody_on_the_hub_leads_to_its_folder(published: World) -> None:
    with pytest.raises(NotFound, match="hf download google/vit-base --local-dir"):
        printed(backbones, "import", "google/vit-base", store=published.folder)


def test_pixels_in_bytes_are_refused_as_mean_and_std(tmp_path: Path, published: World) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    words = ["import", str(tmp_path / "x.safetensors"), "--architecture", "vit_tiny_patch16_224"]
    for name in ("--mean", "--std"):
        with pytest.raises(InvalidInput, match="divide one of pixels"):
            printed(backbones, *words, name, "123.7", "116.3", "103.5", store=published.folder)
