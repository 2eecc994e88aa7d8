"""Mean and std of a backbone are those of its weights, and the import says whose."""

from pathlib import Path

import pytest
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from model_store.sources import normalisation
from model_store.sources.checkpoint import Checkpoint
from model_store.sources.said import Said

HALF = (0.5, 0.5, 0.5)
IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
VIT_B = "vit_base_patch16_224"


def of(architecture: str, file: str | None = None, **given: tuple[float, float, float]) -> tuple[object, str]:
    named = None if file is None else Checkpoint(name=Path(file).name, tensors={})
    values = {"mean": None, "std": None} | given
    mean, std, whose = normalisation.of(architecture, file=named, **values)
    return (mean, std), whose


@pytest.mark.parametrize(
    ("architecture", "file", "expected", "said"),
    [
        (f"{VIT_B}.mae", "x.pth", IMAGENET, f"timm's for {VIT_B}.mae"),
        (VIT_B, "mae_pretrain_vit_base.pth", IMAGENET, f"{VIT_B}.mae, as the file's name says"),
        (VIT_B, "dino_vitbase16_pretrain.pth", IMAGENET, f"{VIT_B}.dino, as the file's name says"),
        (VIT_B, "maestro.pth", (HALF, HALF), "name the tag, or set --mean and --std"),
        (VIT_B, "best.pth", (HALF, HALF), f"{VIT_B}.dino"),
        (VIT_B, None, (HALF, HALF), f"timm's for {VIT_B}"),
        ("vit_small_patch14_dinov2", "best.pth", IMAGENET, "timm's for vit_small_patch14_dinov2"),
    ],
)
def test_the_tag_or_the_files_name_says_whose_they_are(
    architecture: str, file: str | None, expected: object, said: str
) -> None:
    found, whose = of(architecture, file)
    assert found == expected
    assert said in whose


def test_what_is_given_comes_first() -> None:
    assert of(VIT_B, "mae.pth", mean=(0.1, 0.2, 0.3), std=HALF) == (((0.1, 0.2, 0.3), HALF), "as given")
    found, whose = of(VIT_B, "mae.pth", mean=(0.1, 0.2, 0.3))
    assert found == ((0.1, 0.2, 0.3), IMAGENET_DEFAULT_STD)
    assert whose.startswith("mean as given, std timm's")


def test_a_folder_that_says_them_comes_before_timm() -> None:
    file = Checkpoint(name="hf", tensors={}, said=Said(mean=HALF, std=(0.1, 0.1, 0.1)))
    found = normalisation.of(f"{VIT_B}.mae", mean=None, std=None, file=file)
    assert found == (HALF, (0.1, 0.1, 0.1), "as the folder says")
