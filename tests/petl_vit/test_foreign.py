"""The distance of frozen features from those of reference images."""

from dataclasses import dataclass

import numpy as np
import pytest

from petl_vit import foreign


@dataclass(frozen=True, kw_only=True)
class Kept:
    mean: tuple[float, ...] = (0.0, 1.0)
    variance: tuple[float, ...] = (4.0, 1.0)
    distance: float = 2.0


def test_distances_by_hand() -> None:
    vectors = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    by_hand = [0.0, np.sqrt(1 / 2), np.sqrt(4 / 2)]
    assert foreign.distance(Kept(), vectors).tolist() == pytest.approx(by_hand)
    assert foreign.ratio(Kept(), vectors).tolist() == pytest.approx([d / 2 for d in by_hand])


def test_a_vector_that_is_not_finite_has_no_distance() -> None:
    vectors = np.array([[np.nan, 1.0], [np.inf, 1.0], [-np.inf, np.inf], [1e200, 1.0]])
    assert np.isnan(foreign.ratio(Kept(), vectors)).all()


@pytest.mark.parametrize("n", [3, 4, 50])
def test_each_image_is_compared_with_all_others(n: int) -> None:
    vectors = np.random.default_rng(n).normal(size=(n, 6))
    vectors[:, 2] = 7.0  # the same in all images
    vectors[1, 3] += 5.0
    vectors[:, 5] = 0.0
    vectors[0, 5] = 3.0  # in one image alone
    by_hand = []
    for i in range(n):
        others = np.delete(vectors, i, axis=0)
        by_hand.append(foreign.standardised(others.mean(axis=0), others.var(axis=0), vectors[i]))
    assert foreign.left_out(vectors).tolist() == pytest.approx(np.array(by_hand).tolist())


def test_where_all_reference_images_are_alike_any_other_is_infinitely_far() -> None:
    alike = Kept(variance=(0.0, 0.0), distance=0.0)
    assert foreign.ratio(alike, np.array([[0.0, 1.0], [0.0, 1.5]])).tolist() == [0.0, np.inf]
