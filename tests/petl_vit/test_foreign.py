"""The distance of frozen features from those of reference images."""

from dataclasses import dataclass

import numpy as np
import pytest

from petl_vit import foreign
from petl_vit.foreign import Plane

FLAT = Plane(centre=np.array([0.5, 0.0, 0.0]), directions=np.array([[0.0, 1.0, 0.0]]))


@dataclass(frozen=True, kw_only=True)
class Kept:
    plane: Plane | None = FLAT
    mean: tuple[float, ...] = (0.0, 1.0, 0.0)
    variance: tuple[float, ...] = (4.0, 1.0, 0.0)
    distance: float = 0.25


def usual(n: int, seed: int = 0, width: int = 48) -> np.ndarray:
    """Features [n, D] that vary most in six directions, as those of images do."""
    random = np.random.default_rng(seed)
    axes = np.random.default_rng(9).normal(size=(6, width))
    return 3 + random.normal(size=(n, 6)) @ axes + 0.3 * random.normal(size=(n, width))


def test_distances_by_hand() -> None:
    vectors = np.array([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, -0.1]])
    by_hand = [0.5, 0.5, np.sqrt(0.25 + 1)]
    assert foreign.distance(Kept(), vectors).tolist() == pytest.approx(by_hand)
    assert foreign.ratio(Kept(), vectors).tolist() == pytest.approx([d / 0.25 for d in by_hand])


def test_the_length_of_features_does_not_count() -> None:
    vectors = usual(20)
    plane = Plane.through(usual(100, seed=1))
    assert plane.distance(vectors * 7).tolist() == pytest.approx(plane.distance(vectors).tolist())
    assert np.isfinite(plane.distance(vectors * 1e300)).all()


def test_a_plane_goes_through_the_features_and_keeps_numbers_as_files_do() -> None:
    vectors = usual(200)
    plane = Plane.through(vectors)
    assert plane.directions.shape == (foreign.RANK, 48)
    assert plane.directions @ plane.directions.T == pytest.approx(np.eye(foreign.RANK), abs=1e-2)
    assert (plane.directions.astype(np.float16) == plane.directions).all()
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert plane.distance(vectors).mean() < 0.5 * np.linalg.norm(units - units.mean(axis=0), axis=1).mean()


@pytest.mark.parametrize("n", [60, 360])
def test_one_new_image_in_twenty_is_beyond_what_is_usual(n: int) -> None:
    """In the plane's own images, without leaving them out, it would be several times as many."""
    beyond, within = [], []
    for seed in range(8):
        vectors, new = usual(n, seed), usual(1000, seed + 100)
        plane = Plane.through(vectors)
        for shares, distances in ((beyond, foreign.left_out(vectors)), (within, plane.distance(vectors))):
            shares.append(
                (plane.distance(new) > np.quantile(distances, foreign.SHARE, method="higher")).mean()
            )
    assert 0.01 < np.mean(beyond) < 0.06
    assert np.mean(within) > 1.5 * np.mean(beyond)


def test_features_that_lie_elsewhere_are_beyond_it_also_where_they_are_nearer_to_the_mean() -> None:
    vectors = usual(360)
    least = np.quantile(foreign.left_out(vectors), foreign.SHARE)
    other = 0.1 * vectors.mean(axis=0) + 0.2 * np.random.default_rng(3).normal(size=(50, 48))
    assert (Plane.through(vectors).distance(other) > least).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_few_images_have_a_plane_of_few_directions(n: int) -> None:
    vectors = usual(n)
    assert len(Plane.through(vectors).directions) == n // 4
    assert np.isfinite(foreign.left_out(vectors)).all()


@pytest.mark.parametrize("plane", [FLAT, None])
def test_a_vector_that_is_not_finite_has_no_distance(plane: Plane | None) -> None:
    vectors = np.array([[np.nan, 1.0, 0.0], [np.inf, 1.0, 0.0], [-np.inf, np.inf, 0.0]])
    assert np.isnan(foreign.ratio(Kept(plane=plane), vectors)).all()
    assert FLAT.distance(np.zeros((1, 3))).tolist() == [0.5]


def test_a_reference_from_before_there_were_planes_has_its_distance() -> None:
    vectors = np.array([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 2.0]])
    by_hand = [0.0, np.sqrt(1 / 3), np.sqrt(4 / 3), np.sqrt(4 / 3)]
    assert foreign.distance(Kept(plane=None), vectors).tolist() == pytest.approx(by_hand)
    alike = Kept(plane=None, distance=0.0)
    assert foreign.ratio(alike, vectors[:2]).tolist() == [0.0, np.inf]
