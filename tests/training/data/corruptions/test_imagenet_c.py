"""The corruptions of ImageNet-C, against values by hand and against SciPy, which the published code uses."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from training.data.corruptions import filters
from training.data.corruptions.constants import CIFAR_10_C, IMAGENET_C, constants
from training.data.shift import IMAGENET_C as NAMES
from training.data.shifts import apply

WEATHER = ("snow", "frost", "fog")
RANDOM = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "elastic_transform",
    *WEATHER,
)


def photos(n: int, side: int) -> Tensor:
    """Smooth coloured patterns with edges, as different as photos are."""
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(n, 3, 6, 6, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    smooth[:, :, side // 3 : side // 2, side // 4 : side // 2] += 0.4
    return smooth.mul(255).clamp(0, 255).to(torch.uint8)


def distance(images: Tensor, name: str, severity: int) -> float:
    """Mean change of a sample; of weather, which makes images brighter, what is unlike in their pattern."""
    shifted = apply(images, name, severity, seed=0)
    if name in WEATHER:
        return 100 * (
            1 - float(torch.corrcoef(torch.stack([images.flatten(), shifted.flatten()]).float())[0, 1])
        )
    return float((shifted.float() - images.float()).abs().mean())


def test_both_tables_have_every_corruption() -> None:
    assert tuple(IMAGENET_C) == tuple(CIFAR_10_C) == NAMES


def test_constants_are_those_of_the_published_sizes_and_lengths_grow_with_the_image() -> None:
    assert constants("motion_blur", 3, 224) == ((15, 8), 1.0)
    assert constants("motion_blur", 3, 32) == ((6, 2), 1.0)
    assert constants("motion_blur", 3, 112) == ((15, 8), 0.5)
    assert constants("motion_blur", 3, 64) == ((6, 2), 2.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [32, 96])
def test_a_corruption_grows_with_its_severity(name: str, side: int) -> None:
    """But for the elastic moves, whose published constants change in kind from severity to severity."""
    images = photos(4, side)
    changes = [distance(images, name, severity) for severity in range(1, 6)]
    assert min(changes) > 0.2
    if name != "elastic_transform":
        assert changes[4] > 1.2 * changes[0]
    if name not in ("elastic_transform", "glass_blur", "snow", "frost"):
        assert changes == sorted(changes)


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_is_decided_by_the_seed_and_by_the_place_of_the_image(name: str) -> None:
    images = photos(1, 40).expand(70, -1, -1, -1)
    whole, again = apply(images, name, 3, seed=0), apply(images, name, 3, seed=0)
    assert torch.equal(whole, again)
    some = apply(images[40:45], name, 3, seed=40)
    assert (whole[40:45].int() - some.int()).abs().amax() <= 2  # sums depend on the number of rows
    assert torch.equal(whole[0], whole[1]) == (name not in RANDOM)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "zoom_blur", "brightness", "fog", "pixelate", "snow", "motion_blur"]
)
def test_grey_images_stay_grey(name: str) -> None:
    grey = photos(2, 40)[:, :1].expand(-1, 3, -1, -1)
    shifted = apply(grey, name, 3, seed=0).int()
    assert (shifted.amax(dim=1) - shifted.amin(dim=1)).max() <= 1


def test_gaussian_noise_has_its_published_deviation() -> None:
    grey = torch.full((4, 3, 112, 112), 128, dtype=torch.uint8)
    assert float(apply(grey, "gaussian_noise", 2, seed=0).float().std()) == pytest.approx(
        0.12 * 255, rel=0.02
    )


def test_shot_noise_has_the_variance_of_counts() -> None:
    grey = torch.full((4, 3, 112, 112), 102, dtype=torch.uint8)  # 0.4: 24 of 60 photons
    shifted = apply(grey, "shot_noise", 1, seed=0).float() / 255
    assert float(shifted.mean()) == pytest.approx(0.4, abs=0.002)
    assert float(shifted.var()) == pytest.approx(0.4 / 60, rel=0.05)


def test_impulse_noise_makes_its_share_of_samples_black_or_white() -> None:
    grey = torch.full((4, 3, 112, 112), 128, dtype=torch.uint8)
    shifted = apply(grey, "impulse_noise", 4, seed=0)
    black, white = ((shifted == level).double().mean() for level in (0, 255))
    assert float(black) == pytest.approx(0.085, abs=0.003)
    assert float(white) == pytest.approx(0.085, abs=0.003)
    assert float((shifted == 128).double().mean()) == pytest.approx(0.83, abs=0.005)


def test_contrast_keeps_the_mean_of_each_colour() -> None:
    images = photos(2, 112)
    shifted = apply(images, "imagenet-c/contrast", 3, seed=0).float()
    mean = images.float().mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(shifted, mean + 0.2 * (images.float() - mean), atol=0.51)


def test_brightness_adds_to_the_value_at_the_same_hue() -> None:
    images = torch.tensor([[51, 102, 25], [0, 0, 0], [255, 10, 0]], dtype=torch.uint8)
    images = images.T[None, :, :, None].expand(1, 3, 3, 112).repeat(1, 1, 40, 1)[:, :, :112]
    shifted = apply(images, "brightness", 2, seed=0)[0, :, :3, 0].T.tolist()
    # 102 / 255 = 0.4 becomes 0.6, and the other colours with it; black becomes grey; white cannot rise.
    assert shifted == [[76, 153, 38], [51, 51, 51], [255, 10, 0]]


def test_fog_keeps_the_brightest_pixel_and_takes_contrast_away() -> None:
    images = photos(2, 112)
    shifted = apply(images, "fog", 3, seed=0).float()
    assert shifted.amax() <= images.amax()
    assert shifted.std() < images.float().std()


def test_a_gaussian_is_scipys_with_every_border() -> None:
    image = photos(1, 23)[0, 0].double().numpy() / 255
    for border, mode in (("edge", "nearest"), ("symmetric", "reflect"), ("reflect", "mirror")):
        for sigma in (0.6, 3.0, 15.0):
            ours = filters.smoothed(torch.from_numpy(image).float(), sigma, border=border, truncate=3.0)  # type: ignore[arg-type]
            theirs = ndimage.gaussian_filter(image, sigma, mode=mode, truncate=3.0)
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_an_enlargement_is_scipys() -> None:
    image = photos(1, 50)[0].double().numpy() / 255
    for factor in (1.06, 1.5, 2.25):
        size = int(np.ceil(50 / factor))
        top = (50 - size) // 2
        large = ndimage.zoom(image[:, top : top + size, top : top + size], (1, factor, factor), order=1)
        trim = (large.shape[1] - 50) // 2
        ours = filters.zoomed(torch.from_numpy(image).float()[None], factor)[0]
        np.testing.assert_allclose(ours.numpy(), large[:, trim : trim + 50, trim : trim + 50], atol=1e-5)


def test_motion_smears_a_point_along_its_angle() -> None:
    image = torch.zeros(1, 41, 41)
    image[0, 20, 20] = 1
    smeared = filters.moved(image, 5, 3, 0.0)[0]
    assert torch.count_nonzero(smeared[20]) == 11  # 2 * 5 + 1 in one direction
    assert torch.count_nonzero(smeared) == 11
    assert float(smeared.sum()) == pytest.approx(1)
    slanted = filters.moved(image, 5, 3, 45.0)[0].nonzero() - 20
    assert (slanted[:, 0] == slanted[:, 1]).all()


def test_a_landscape_spans_its_range_and_is_rougher_for_a_smaller_decay() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    smooth = filters.landscape(generators, 64, 64, 3.0)
    rough = filters.landscape(generators, 64, 64, 1.4)
    assert smooth.amin() == 0
    assert smooth.amax() == 1
    assert rough.diff(dim=1).abs().mean() > 2 * smooth.diff(dim=1).abs().mean()


def test_glass_only_moves_pixels_where_it_does_not_smooth() -> None:
    images = photos(1, 32)
    moved = apply(images, "glass_blur", 1, seed=0)  # of a deviation of 0.05 pixels
    before, after = (set(map(tuple, one[0].flatten(1).T.tolist())) for one in (images, moved))
    assert after < before
    assert torch.equal(moved[..., :2, :], images[..., :2, :])  # the first rows are nobody's turn
    assert (moved != images).any(dim=1).double().mean() > 0.5
