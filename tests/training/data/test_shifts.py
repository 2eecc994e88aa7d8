import pytest
import torch
from torch import Tensor

from petl_vit.errors import InvalidInput
from training.data.shift import NAMES
from training.data.shifts import apply


def pictures(n: int, height: int, width: int, seed: int = 7) -> Tensor:
    """A bright, off-centre box on a dark ground, with a little texture."""
    texture = torch.randint(0, 30, (n, 3, height, width), generator=torch.Generator().manual_seed(seed))
    images = 40 + texture
    images[:, :, height // 4 : height // 2, width // 4 : 3 * width // 4] += 120
    return images.to(torch.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_keeps_shape_and_type_and_leaves_its_input_alone(name: str) -> None:
    images = pictures(3, 20, 36)
    shifted = apply(images, name, 5, seed=0)
    assert shifted.shape == images.shape
    assert shifted.dtype == torch.uint8
    assert torch.equal(images, pictures(3, 20, 36))
    assert not torch.equal(shifted, images)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2)])
def test_tiny_images_are_shifted_too(name: str, size: tuple[int, int]) -> None:
    assert apply(pictures(2, *size), name, 5, seed=0).shape == (2, 3, *size)


@pytest.mark.parametrize("name", NAMES)
def test_no_images_stay_no_images(name: str) -> None:
    assert apply(pictures(0, 32, 32), name, 5, seed=0).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_images_stay_within_the_range_of_bytes(name: str, level: int) -> None:
    images = torch.full((2, 3, 24, 24), level, dtype=torch.uint8)
    far = (apply(images, name, 1, seed=0).int() - level).abs().double().mean()
    assert far < 120  # nothing wraps around


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_out_of_range_is_refused(severity: int) -> None:
    with pytest.raises(InvalidInput, match="choose 1 to 5"):
        apply(pictures(1, 8, 8), "noise", severity, seed=0)


def test_an_unknown_shift_is_refused() -> None:
    with pytest.raises(InvalidInput, match="did you mean fog"):
        apply(pictures(1, 8, 8), "fogg", 1, seed=0)
