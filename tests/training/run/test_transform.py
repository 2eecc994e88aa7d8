"""How images of a task reach the backbone, by name."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model_store.format.digest import task_digest
from model_store.store import Store
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import preprocess
from tests.training.conftest import recipe
from training.run.job import Job, run
from training.run.transform import NORMALISATIONS, TRANSFORMS, Input, with_transform

IMAGENET = NORMALISATIONS["imagenet"]


def spec(name: str, size: int = 224) -> Preprocess:
    fields = dict.fromkeys(("resize", "crop_ratio", "interpolation", "normalise"))
    config = BackboneConfig(
        architecture="vit_tiny_patch16_224",
        image_size=size,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 2.0, 3.0),
        options={},
    )
    filled = with_transform(name, fields) if name else fields
    return Input(**filled).preprocess(config)


def photo() -> tuple[bytes, Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    large = Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    return buffer.getvalue(), large


@pytest.mark.parametrize(
    ("name", "steps", "mean_std"),
    [
        ("vtab", ["resize 224 bicubic"], ((0, 0, 0), (1, 1, 1))),
        ("vtab-normalised", ["resize 224 bicubic"], IMAGENET),
        ("clevr", ["resize 224 bilinear"], IMAGENET),
        ("cifar", ["shorter 256 bicubic", "centre 224"], ((0.5,) * 3, (0.5,) * 3)),
        ("resisc", ["shorter 256 bicubic", "centre 224"], ((0.5,) * 3, (0.5,) * 3)),
        ("imagenet-clip", ["resize 256 bicubic", "centre 224"], NORMALISATIONS["clip"]),
    ],
)
def test_a_transform_of_the_study_is_what_torchvision_makes_of_it(
    name: str, steps: list[str], mean_std: Any
) -> None:
    from torchvision.transforms import InterpolationMode, v2

    made = []
    for step in steps:
        what, size, *how = step.split()
        mode = InterpolationMode(how[0]) if how else None
        made.append(
            v2.CenterCrop(int(size))
            if what == "centre"
            else v2.Resize(int(size) if what == "shorter" else (int(size), int(size)), mode)
        )
    data, image = photo()
    expected = v2.Compose(
        [*made, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*mean_std)]
    )
    found = preprocess(data, spec(name))
    worst = 3 / 255 / min(mean_std[1])  # Pillow and torch round differently
    assert found.shape == (3, 224, 224)
    assert torch.allclose(found, expected(image), atol=worst)


def test_a_transform_says_only_what_the_user_does_not() -> None:
    given = {"resize": None, "normalise": "half", "augment": None}
    assert with_transform("cifar", given) == {
        "resize": "crop",
        "normalise": "half",
        "augment": "resized-crop-flip",
    }
    assert with_transform(None, given) == given
    with pytest.raises(InvalidInput, match=r"no transform 'vtab1k'; did you mean vtab\?"):
        with_transform("vtab1k", given)


def test_the_transforms_name_what_exists() -> None:
    for values in TRANSFORMS.values():
        recipe(augment=values.get("augment", "none"))
        Input(**{name: value for name, value in values.items() if name != "augment"})


def test_a_crop_ratio_needs_a_crop() -> None:
    with pytest.raises(InvalidInput, match="crop_ratio: nothing is cropped from images that are squashed"):
        Input(crop_ratio=0.875).preprocess(None)  # type: ignore[arg-type]


def test_tasks_of_before_keep_their_digests_and_others_differ() -> None:
    head = LinearHead(weight=torch.zeros(2, 4), bias=torch.zeros(2)).tensors()
    before = spec("")
    assert "interpolation" not in before.model_dump(mode="json")
    assert "interpolation" not in before.model_dump_json()
    assert Preprocess.model_validate(before.model_dump()) == before
    other = before.model_copy(update={"interpolation": "bilinear"})
    assert Preprocess.model_validate_json(other.model_dump_json(), strict=True) == other
    digests = {task_digest(("a", "b"), one, "0" * 64, head) for one in (before, other)}
    assert len(digests) == 2


def test_a_task_keeps_its_input_and_refuses_another(store: Store, job: Job, tmp_path: Path) -> None:
    asked = {"resize": "squash-crop", "crop_ratio": 0.5, "interpolation": "bilinear", "normalise": "none"}
    first = replace(job, **asked)
    manifest = run(store, first).manifest
    found = store.tasks.get("digits", manifest.backbone_digest).spec.preprocess
    assert (found.resize, found.crop_ratio, found.interpolation) == ("squash-crop", 0.5, "bilinear")
    assert (found.mean, found.std) == NORMALISATIONS["none"]
    assert run(store, first).reused
    assert run(store, replace(job, normalise="none")).reused
    for field, value, said in (
        ("crop_ratio", 0.875, "has 0.5, not 0.875"),
        ("interpolation", "bicubic", "has bilinear, not bicubic"),
        ("normalise", "clip", "has none, not clip"),
    ):
        with pytest.raises(InvalidInput, match=f"{field}: task 'digits' {said}; leave it out"):
            run(store, replace(job, **{field: value}))  # type: ignore[arg-type]
