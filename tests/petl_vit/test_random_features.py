import numpy as np
import pytest

from petl_vit.random_features import RandomFeatures, bandwidth


def test_the_distance_of_two_means_is_the_mmd_under_a_gaussian_kernel() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 6)), random.normal(size=(80, 6)) + 1.0
    features = RandomFeatures(width=6, count=8192, bandwidth=2.5)
    ours = ((features.of(x).mean(axis=0) - features.of(y).mean(axis=0)) ** 2).sum()

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2) / (2 * 2.5**2)).mean())

    assert ours == pytest.approx(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y), abs=0.01)


def test_a_seed_gives_the_same_features_everywhere() -> None:
    """By numbers, so that a new NumPy that changes them does not go unnoticed."""
    features = RandomFeatures(width=2, count=3, bandwidth=1.0).of(np.array([[1.0, -2.0]]))
    assert features[0].tolist() == pytest.approx([0.8160862, -0.5243886, -0.7399005], abs=1e-6)
    assert not np.allclose(
        features, RandomFeatures(width=2, count=3, bandwidth=1.0, seed=1).of(np.ones((1, 2)))
    )


def test_the_bandwidth_is_the_median_distance() -> None:
    assert bandwidth(np.array([[0.0], [1.0], [4.0]])) == pytest.approx(3.0)
    assert bandwidth(np.zeros((3, 2))) == bandwidth(np.zeros((1, 2))) == 1.0
