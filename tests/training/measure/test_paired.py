"""Two routes on the same images, against hand counts, published counts, scipy and scikit-learn."""

from math import comb

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from tests.training.measure.made import answered, logits_of, random_logits
from training.measure.arrays import Flags
from training.measure.paired import bootstrap_interval, comparisons, difference, mcnemar, overlap, pairs


def flags(*rights: int, n: int) -> Flags:
    found = np.zeros(n, dtype=np.bool_)
    found[list(rights)] = True
    return found


def test_mcnemars_p_is_the_binomial_tail_by_hand() -> None:
    assert mcnemar(1, 7) == pytest.approx(2 * (comb(8, 0) + comb(8, 1)) / 2**8)
    assert mcnemar(7, 1) == mcnemar(1, 7)
    assert mcnemar(4, 4) == 1
    assert mcnemar(0, 0) == 1


def test_a_difference_counts_the_images_of_either_side() -> None:
    a, b = flags(0, 1, 2, 3, n=10), flags(0, 1, 4, n=10)
    found = difference(a, b)
    assert (found.only_a, found.only_b, found.difference) == (2, 1, pytest.approx(0.1))
    assert found.mcnemar_p == 1
    assert found.low <= 0.1 <= found.high
    shares = difference(np.array([0.5, 1.0]), np.array([True, False]))
    assert (shares.difference, shares.mcnemar_p, shares.only_a) == (0.25, None, None)


def test_the_bootstrap_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    gap = random.choice([-1.0, 0.0, 1.0], size=300, p=[0.05, 0.8, 0.15])
    theirs = stats.bootstrap(
        (gap,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert bootstrap_interval(gap) == pytest.approx((theirs.low, theirs.high), abs=0.007)
    assert bootstrap_interval(np.zeros(20)) == (0, 0)
    assert bootstrap_interval(gap) == bootstrap_interval(gap)  # nothing is left to chance


def test_a_pair_is_counted_by_hand() -> None:
    labels = [0, 0, 1, 1, 2, 2, 0, 1, 2, 0]
    one = [0, 0, 1, 1, 2, 0, 1, 2, 0, 1]  # wrong: 5 to 9
    two = [0, 0, 1, 2, 1, 0, 1, 0, 2, 0]  # wrong: 3 to 7
    sure = [9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0.5]
    scored = {
        "one": answered(labels, logits_of(one, 3, sure)),
        "two": answered(labels, logits_of(two, 3, sure[::-1])),
    }
    (pair,) = pairs("set", scored, 3)
    assert (pair.set, pair.a, pair.b) == ("set", "one", "two")
    assert (pair.both_right, pair.only_a, pair.only_b, pair.both_wrong) == (3, 2, 2, 3)
    assert pair.agreement == 0.5  # images 0, 1, 2, 5 and 6
    assert pair.error_overlap == pytest.approx(3 / 7)
    assert pair.same_error == pytest.approx(2 / 3)  # 5 and 6 of 5, 6 and 7
    assert pair.kappa == pytest.approx(cohen_kappa_score(one, two))
    assert pair.confident_overlap == 0  # one is surest of 0 and 1, two of 9 and 8; all are right
    assert pair.doubtful_overlap == 0  # one is wrong about 8 and 9, two right about 0 and 1


def test_pairs_without_an_error_have_no_overlap_of_errors() -> None:
    labels = [0] * 5
    same = answered(labels, logits_of(labels, 2))
    (pair,) = pairs("set", {"a": same, "b": same}, 2)
    assert (pair.error_overlap, pair.same_error, pair.kappa, pair.doubtful_overlap) == (None,) * 4
    assert pair.confident_overlap == 1


def test_the_overlap_of_figure_1b_is_that_of_its_counts() -> None:
    """The study's Venn diagram: LoRA, Adapter and SSF, of 5,000 confident images each."""
    regions = {"L": 1634, "A": 1559, "S": 1701, "LA": 988, "LS": 878, "AS": 930, "LAS": 1425}
    members = [region for region, count in regions.items() for _ in range(count)]
    lora, adapter, ssf = (np.array([letter in one for one in members]) for letter in "LAS")
    assert (lora.sum(), adapter.sum(), ssf.sum()) == (4925, 4902, 4934)
    assert overlap(lora, adapter) == pytest.approx(2413 / 4913.5)
    assert overlap(lora, ssf) == pytest.approx(0.467, abs=5e-4)  # 47-49 % of a set
    assert overlap(adapter, ssf) == pytest.approx(0.479, abs=5e-4)


def test_every_two_routes_are_compared_once() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 200).tolist()
    scored = {
        name: answered(labels, random_logits(200, 3, seed=seed, labels=labels, strength=strength))
        for seed, (name, strength) in enumerate([("weak", 0.3), ("good", 2.0), ("alike", 2.0)])
    }
    found = {(one.a, one.b): one for one in comparisons("set", scored)}
    assert list(found) == [("weak", "good"), ("weak", "alike"), ("good", "alike")]
    worse = found["weak", "good"]
    assert worse.difference == pytest.approx(scored["weak"].accuracy - scored["good"].accuracy)
    assert worse.high < 0
    assert worse.mcnemar_p is not None
    assert worse.mcnemar_p < 0.001
    b, c = worse.only_a, worse.only_b
    assert b is not None
    assert c is not None
    assert (b - c) / 200 == pytest.approx(worse.difference)
    assert worse.mcnemar_p == pytest.approx(2 * stats.binom.cdf(min(b, c), b + c, 0.5))
