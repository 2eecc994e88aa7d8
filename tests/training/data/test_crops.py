"""Random parts of whole images, and what timm does to them."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_vit.image_input import Preprocess
from petl_vit.preprocess import resize
from petl_vit.vit import FrozenViT
from tests.training.conftest import SPEC
from training.data.crops import cropped
from training.data.loading import Resized
from training.data.records import Dataset

PLAIN = Preprocess(image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
KINDS = ["resized-crop-flip", "resized-crop-flips", "imagenet"]


@dataclass(frozen=True)
class Ramps:
    """Images whose red rises to the right and whose green rises downwards, of several sizes."""

    n: int = 64

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int, /) -> Tensor:
        height, width = 60 + index % 3, 80 - index % 5
        image = torch.zeros(3, height, width)
        image[0] = torch.linspace(40, 215, width)
        image[1] = torch.linspace(40, 215, height)[:, None]
        return image.to(torch.uint8)

    def sized(self, index: int, spec: Preprocess) -> Tensor:
        return resize(self[index], spec)


def changed(kind: Any, seed: int = 0, spec: Preprocess = PLAIN) -> Tensor:
    return cropped(Ramps(), range(64), spec, kind, torch.Generator().manual_seed(seed))


def slopes(images: Tensor) -> tuple[Tensor, Tensor]:
    """How red rises to the right, and green downwards, over each image."""
    return images[:, 0, :, -1].mean(1) - images[:, 0, :, 0].mean(1), (
        images[:, 1, -1].mean(1) - images[:, 1, 0].mean(1)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides_and_nothing_else_of_a_program_is_moved(kind: str) -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    one = changed(kind)
    drawn = random.random(), np.random.random(), float(torch.rand(()))
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert drawn == (random.random(), np.random.random(), float(torch.rand(())))
    assert torch.equal(one, changed(kind))
    assert not torch.equal(one, changed(kind, seed=1))


def test_crops_are_parts_of_every_size_and_half_of_them_are_mirrored() -> None:
    right, down = slopes(changed("resized-crop-flip"))
    assert 0.25 < float((right < 0).float().mean()) < 0.75
    assert (down > 0).all()
    widths = right.abs() / (175 / 255)
    assert widths.min() < 0.45
    assert widths.max() > 0.85


def test_flips_also_turn_half_of_them_upside_down() -> None:
    right, down = slopes(changed("resized-crop-flips"))
    for slope in (right, down):
        assert 0.25 < float((slope < 0).float().mean()) < 0.75
    assert bool((torch.sign(right) != torch.sign(down)).any())


def test_imagenet_changes_colours_and_erases_a_part_of_a_quarter() -> None:
    images = changed("imagenet", spec=SPEC)
    outside = ((images < -1.001) | (images > 1.001)).flatten(1).any(dim=1)  # noise is the only such thing
    assert 0.08 < float(outside.float().mean()) < 0.45
    plain = changed("resized-crop-flip", spec=SPEC)
    assert not torch.allclose(images[~outside], plain[~outside], atol=0.1)


def test_a_batch_is_cropped_from_whole_images_whether_they_are_kept_or_not(
    dataset: Dataset, vit: FrozenViT
) -> None:
    indices = torch.tensor([7, 3, 59])
    batches = [
        Resized(dataset, SPEC, vit, augmentation="resized-crop-flip", kept_bytes=kept).batch(
            indices, torch.Generator().manual_seed(4)
        )
        for kept in (2**30, 0)
    ]
    assert torch.equal(*batches)
    expected = cropped(
        dataset.images, [7, 3, 59], SPEC, "resized-crop-flip", torch.Generator().manual_seed(4)
    )
    assert torch.equal(batches[0], expected)
    kept = Resized(dataset, SPEC, vit, augmentation="resized-crop-flip")
    assert torch.equal(kept.batch(indices), Resized(dataset, SPEC, vit).batch(indices))


def test_a_part_of_a_set_is_cropped_from_its_own_images(dataset: Dataset, vit: FrozenViT) -> None:
    images = Resized(dataset, SPEC, vit, augmentation="resized-crop-flip")
    part = images.part(torch.tensor([59, 3]))
    of_part = part.batch(torch.tensor([1, 0]), torch.Generator().manual_seed(4))
    assert torch.equal(of_part, images.batch(torch.tensor([3, 59]), torch.Generator().manual_seed(4)))
