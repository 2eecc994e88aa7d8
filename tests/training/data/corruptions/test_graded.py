import pytest
import torch
from torch import Tensor

from training.data.shift import GRADED, SEVERITIES
from training.data.shifts import apply


def pictures(n: int = 8, height: int = 32, width: int = 32) -> Tensor:
    """A bright, off-centre box on a dark ground."""
    images = torch.full((n, 3, height, width), 40, dtype=torch.uint8)
    images[:, :, height // 4 : height // 2, width // 4 : 3 * width // 4] = 200
    return images


def change(images: Tensor, name: str, severity: int) -> float:
    return float((apply(images, name, severity, seed=0).float() - images.float()).abs().mean())


@pytest.mark.parametrize("name", GRADED)
def test_a_shift_grows_with_its_severity(name: str) -> None:
    changes = [change(pictures(), name, severity) for severity in SEVERITIES]
    assert changes == sorted(changes)
    assert changes[0] > 0.5
    assert changes[-1] > 2 * changes[0]


@pytest.mark.parametrize("name", GRADED)
def test_a_shift_is_decided_by_the_seed(name: str) -> None:
    first, again, other = (apply(pictures(32), name, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in ("blur", "contrast"))


@pytest.mark.parametrize("name", GRADED)
def test_many_images_are_shifted_as_few_are(name: str) -> None:
    shifted = apply(pictures(600, 16, 16), name, 3, seed=0)
    assert torch.equal(shifted[:256], apply(pictures(256, 16, 16), name, 3, seed=0))
    assert (shifted[599] != pictures(1, 16, 16)[0]).any()


def test_rotation_turns_in_both_directions_by_its_angle() -> None:
    images = torch.zeros(32, 3, 65, 65, dtype=torch.uint8)
    images[:, :, 32, 32:60] = 255  # a hand at three o'clock
    shifted = apply(images, "rotation", 4, seed=0)  # 45 degrees
    up, down = shifted[:, 0, 18, 46], shifted[:, 0, 46, 46]
    assert ((up > 100) != (down > 100)).all()
    assert 4 < int((up > 100).sum()) < 28


def test_rotation_keeps_angles_in_images_that_are_not_square() -> None:
    images = torch.zeros(4, 3, 65, 129, dtype=torch.uint8)
    images[:, :, 32, 64:92] = 255
    shifted = apply(images, "rotation", 4, seed=0)
    assert ((shifted[:, 0, 18, 78] > 100) | (shifted[:, 0, 46, 78] > 100)).all()


def test_rotation_fills_corners_with_the_edge_colour() -> None:
    shifted = apply(pictures(), "rotation", 5, seed=0)
    assert (shifted[:, :, 0, 0] == 40).all()
    assert (shifted[:, :, -1, -1] == 40).all()


def test_contrast_keeps_the_mean() -> None:
    before, after = pictures().float(), apply(pictures(), "contrast", 5, seed=0).float()
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1)
    assert float(after.std()) == pytest.approx(float(before.std()) / 10, rel=0.1)


def test_noise_has_its_declared_deviation() -> None:
    grey = torch.full((16, 3, 32, 32), 128, dtype=torch.uint8)
    assert float(apply(grey, "noise", 2, seed=0).float().std()) == pytest.approx(0.08 * 255, rel=0.05)
