import builtins
import io
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from petl_vit.errors import InvalidInput
from petl_vit.preprocess import decode, resize
from tests.training.data.files import FLOWERS, SMALL, folder, image, refusal, zipped
from training.data.pixels import augment, load_pixels
from training.data.records import Dataset
from training.data.sources import load_dataset


def test_tensors_are_decoded_and_resized_as_the_server_does(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    dataset = load_dataset(folder(tmp_path, {"a/1.jpg": buffer.getvalue(), "b/1.png": 9}))
    stack = load_pixels(dataset, SMALL)
    assert stack.dtype == torch.uint8
    assert stack.shape == (2, 3, 14, 14)
    assert torch.equal(stack[0], resize(decode(buffer.getvalue()), SMALL))


def test_tensors_report_their_progress_in_the_callers_thread(uneven: Dataset) -> None:
    seen: list[int] = []
    threads: set[int] = set()

    def progress(done: int) -> None:
        seen.append(done)
        threads.add(threading.get_ident())

    load_pixels(uneven, SMALL, progress=progress)
    assert seen == list(range(1, 54))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("pack", [folder, zipped])
def test_an_undecodable_training_file_is_named(tmp_path: Path, pack: Callable[[Path, Any], str]) -> None:
    source = pack(tmp_path / "x.zip", FLOWERS | {"tulip/bad.png": image(1)[:50]})
    with pytest.raises(InvalidInput, match=r"tulip/bad\.png: the image cannot be decoded"):
        load_pixels(load_dataset(source), SMALL)


def test_a_training_file_that_vanishes_is_named(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path / "x", FLOWERS))
    shutil.rmtree(tmp_path / "x" / "tulip")
    with pytest.raises(InvalidInput, match=r"tulip/(1\.png|deep/er/2\.PNG): the file cannot be read"):
        load_pixels(dataset, SMALL)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path, FLOWERS)
    opened = builtins.open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith("1.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(io, "open", refuse)
    assert "rose/1.png: the file cannot be read (Permission denied)" in str(refusal(source))


# Augmentation


def stripes(b: int = 64, side: int = 16) -> torch.Tensor:
    """Images that brighten from left to right, each with an edge of its own."""
    ramp = torch.linspace(0, 240, side).to(torch.uint8)
    return ramp.expand(b, 3, side, side).contiguous()


def test_no_augmentation_changes_nothing() -> None:
    images = stripes()
    assert torch.equal(augment(images, "none", torch.Generator()), images)


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = stripes()
    flipped = augment(images, "flip", torch.Generator().manual_seed(0))
    mirrored = [bool(torch.equal(new, old.flip(-1))) for new, old in zip(flipped, images, strict=True)]
    kept = [bool(torch.equal(new, old)) for new, old in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_crop_flip_enlarges_half_the_area_or_more() -> None:
    images = stripes(256, 32)
    cropped = augment(images, "crop-flip", torch.Generator().manual_seed(0))
    assert cropped.dtype == torch.uint8
    assert cropped.shape == images.shape
    rows = cropped[:, 0, 0].int()
    spans = (rows.max(dim=1).values - rows.min(dim=1).values) / 240
    assert 0.55 < spans.min() < 0.75
    assert spans.max() > 0.95
    assert 80 < int((rows[:, 0] > rows[:, -1]).sum()) < 176


@pytest.mark.parametrize("kind", ["flip", "crop-flip"])
def test_augmentation_is_decided_by_the_generator(kind: Any) -> None:
    first, again, other = (
        augment(stripes(), kind, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_augmentation_leaves_its_input_alone() -> None:
    images = stripes()
    augment(images, "crop-flip", torch.Generator().manual_seed(0))
    assert torch.equal(images, stripes())


def test_an_unknown_augmentation_is_refused() -> None:
    wrong: Any = "mixup"
    with pytest.raises(InvalidInput, match="none, flip, crop-flip"):
        augment(stripes(), wrong, torch.Generator())
