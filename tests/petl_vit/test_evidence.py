"""The theorem of docs/alarms.md, by exact enumeration of small cases and by simulation."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats

from petl_vit.errors import InvalidInput
from petl_vit.evidence import (
    Array,
    Candidate,
    Evidence,
    bets,
    candidates,
    divergence,
    merged,
    upper_count,
    upper_mean,
)

RATES = (0.02, 0.1, 0.5, 0.9)
LIMITS = (1.5, 2.0, 5.0, 20.0)


def wealth_at_looks(
    numbers: Array, rate: float | Sequence[Candidate], looks: Sequence[int], *, weights: Array | None = None
) -> Array:
    """[streams, looks] from [streams, n]: e-values of streams that are looked at after some images."""
    against = bets((Candidate(rate=rate),) if isinstance(rate, float) else tuple(rate))
    streams = len(numbers)
    weights = np.ones_like(numbers) if weights is None else weights
    wealth, images, found = against.start(streams), np.zeros(streams), []
    for begin, end in itertools.pairwise([0, *looks]):
        n = weights[:, begin:end].sum(axis=1)
        wealth = against.after(wealth, images, n, (weights * numbers)[:, begin:end].sum(axis=1))
        images = images + n
        found.append(np.exp(against.log_e(wealth, images)))
    return np.stack(found, axis=1)


def _log_e_at(against: Sequence[Candidate], mean: float) -> float:
    return next(one.log_e for one in against if mean <= one.rate)


def all_streams(values: Sequence[float], chances: Sequence[float], n: int) -> tuple[Array, Array]:
    """[streams, n] and [streams]: every stream of n of the values, and its probability."""
    places = np.array(list(itertools.product(range(len(values)), repeat=n)))
    return np.array(values)[places], np.array(chances)[places].prod(axis=1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("looks", [(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (3, 4, 9), (10,)])
def test_the_expected_wealth_never_exceeds_one(rate: float, looks: tuple[int, ...]) -> None:
    """All streams of ten images, with their probabilities."""
    for mean in (rate, rate / 2):
        streams, chances = all_streams((0, 1), (1 - mean, mean), 10)
        expected = chances @ wealth_at_looks(streams, rate, looks)
        assert (expected <= 1 + 1e-12).all()
        if mean == rate:
            assert expected == pytest.approx(1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("limit", LIMITS)
def test_the_wealth_ever_reaches_a_limit_with_at_most_the_probability_one_over_it(
    rate: float, limit: float
) -> None:
    streams, chances = all_streams((0, 1), (1 - rate, rate), 10)
    ever = wealth_at_looks(streams, rate, range(1, 11)).max(axis=1) >= limit
    assert chances @ ever <= 1 / limit


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_reference_and_the_images_after_it_prove_no_more_together(rate: float, limit: float) -> None:
    """Every outcome of 12 reference images, and every stream of 8 images after it: all have one rate."""
    streams, chances = all_streams((0, 1), (1 - rate, rate), 8)
    false, expected = 0.0, np.zeros(8)
    for count in range(13):
        chance = float(stats.binom.pmf(count, 12, rate))
        open_to_it = candidates(partial(upper_count, count, 12), margin=0.0, most=math.log(limit) + 1)
        wealth = wealth_at_looks(streams, open_to_it, range(1, 9))
        false += chance * float(chances @ (wealth.max(axis=1) >= limit))
        expected += chance * (chances @ wealth)
    assert false <= 1 / limit
    assert (expected <= 1 + 1e-12).all()


def test_candidates_cover_all_means_and_more_speaks_against_the_higher_ones() -> None:
    found = candidates(partial(upper_count, 50, 1000), margin=0.01, most=9.0)
    assert [one.rate for one in found] == sorted(one.rate for one in found)
    assert [one.log_e for one in found] == sorted(one.log_e for one in found)
    assert found[0].rate > 0.06
    assert found[-1].rate == 1
    assert found[-1].log_e >= 9


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_what_a_reference_says_against_its_own_rate_is_at_most_one_on_average(rate: float) -> None:
    n = 60
    counts = np.arange(n + 1)
    against = [
        _log_e_at(candidates(partial(upper_count, int(k), n), margin=0.0, most=6.0), rate) for k in counts
    ]
    assert stats.binom.pmf(counts, n, rate) @ np.exp(against) <= 1


def test_a_larger_reference_leaves_less_open() -> None:
    few, many = (
        Evidence.start(*candidates(partial(upper_count, n // 20, n), margin=0.01, most=7.0)).after(500, 75)
        for n in (300, 30_000)
    )
    assert few.e_value < many.e_value


def test_numbers_between_0_and_1_prove_no_more_than_0_and_1_do() -> None:
    values, chances = (0.0, 0.3, 1.0), (0.8, 0.1, 0.1)
    rate = float(np.dot(values, chances))
    streams, likely = all_streams(values, chances, 7)
    wealth = wealth_at_looks(streams, rate, range(1, 8))
    assert (likely @ wealth <= 1 + 1e-12).all()
    assert all(likely @ (wealth.max(axis=1) >= limit) <= 1 / limit for limit in LIMITS)


def test_weighted_images_are_held_to_the_weighted_mean() -> None:
    """Errors have other weights than right answers, so that only the weighted mean is the rate."""
    weights, numbers, chances = (0.2, 1.0, 0.5), (1.0, 0.0, 1.0), (0.3, 0.6, 0.1)
    rate = np.dot(weights, np.array(numbers) * chances) / np.dot(weights, chances)
    places, likely = all_streams((0, 1, 2), chances, 7)
    found = places.astype(int)
    wealth = wealth_at_looks(
        np.array(numbers)[found], float(rate), range(1, 8), weights=np.array(weights)[found]
    )
    assert (likely @ wealth <= 1 + 1e-12).all()


def test_traffic_may_change_as_long_as_no_mean_exceeds_the_rate() -> None:
    """Every image's probability depends on all images before it."""
    rate, n = 0.3, 9
    streams, _ = all_streams((0, 1), (0.5, 0.5), n)
    before = np.cumsum(streams, axis=1) - streams
    means = np.where(before % 2 == 0, rate, rate * 0.2)
    likely = np.where(streams == 1, means, 1 - means).prod(axis=1)
    wealth = wealth_at_looks(streams, rate, range(1, n + 1))
    assert (likely @ wealth <= 1 + 1e-12).all()
    assert all(likely @ (wealth.max(axis=1) >= limit) <= 1 / limit for limit in LIMITS)


def test_duplicates_within_a_block_prove_no_more_at_any_look() -> None:
    """Every image comes three times in a row; looks fall within the three, too."""
    rate, copies = 0.2, 3
    streams, likely = all_streams((0, 1), (1 - rate, rate), 6)
    repeated = np.repeat(streams, copies, axis=1).astype(int)

    def ever(block: int, limit: float) -> float:
        highest = []
        for stream in repeated:
            evidence, values = Evidence.start(Candidate(rate=rate), block=block), []
            for number in stream:
                evidence = evidence.after(1, float(number))
                values.append(evidence.e_value)
            highest.append(max(values))
        return float(likely @ (np.array(highest) >= math.log10(limit)))

    assert ever(copies, 5.0) <= 1 / 5
    assert ever(1, 5.0) > 1 / 5


def test_streams_like_the_reference_raise_at_most_alpha_false_alarms() -> None:
    """1,000 streams of 20,000 images, looked at every 50; `benchmarks.alarms` does it at full length."""
    random, rate, alpha, streams, step = np.random.default_rng(0), 0.08, 0.05, 1000, 50
    against = bets((Candidate(rate=rate),))
    wealth, images, alarms = against.start(streams), np.zeros(streams), np.zeros(streams, dtype=bool)
    for _ in range(400):
        wealth = against.after(wealth, images, step, random.binomial(step, rate, streams))
        images = images + step
        alarms |= against.log_e(wealth, images) >= -math.log(alpha)
    assert alarms.sum() <= stats.binom.ppf(0.999, streams, alpha)


@pytest.mark.parametrize("quiet", [0, 10_000, 1_000_000, 100_000_000])
def test_it_is_quick_after_a_long_time_of_quiet(quiet: int) -> None:
    """A rate of 5 % that becomes 15 %; ten times more quiet costs about as many images again."""
    evidence = Evidence.start(Candidate(rate=0.05))
    if quiet:
        evidence = evidence.after(quiet / 2, quiet / 2 * 0.048).after(quiet / 2, quiet / 2 * 0.048)
    images = 0
    while evidence.e_value < 2.5:
        evidence, images = evidence.after(20, 3), images + 20
    assert images <= {0: 200, 10_000: 350, 1_000_000: 500, 100_000_000: 600}[quiet]


def test_a_rate_that_does_not_rise_gives_no_evidence() -> None:
    evidence = Evidence.start(Candidate(rate=0.05))
    for _ in range(200):
        evidence = evidence.after(1000, 50)
    assert evidence.e_value < 0
    assert evidence.after(10**9, 0).e_value > -2, "there is always something left to bet"


def test_evidence_fades_as_fast_as_it_grew_where_it_is_limited() -> None:
    evidence = Evidence.start(Candidate(rate=0.05))
    for _ in range(100):
        evidence = evidence.after(1000, 300).at_most(3.0)
    assert evidence.e_value == pytest.approx(3.0, abs=1e-3)
    assert evidence.at_most(3.5) is evidence

    assert evidence.after(500, 25).e_value < 0


def test_evidence_is_the_same_after_a_way_through_json() -> None:
    against = candidates(lambda level: upper_count(7, 100, level), margin=0.01, most=5.0)
    evidence = Evidence.start(*against, block=3).after(100, 9.5).after(31, 0)
    again = TypeAdapter(Evidence).validate_json(json.dumps(asdict(evidence)))
    assert again == evidence
    assert again.after(10, 10).e_value == evidence.after(10, 10).e_value


def test_merged_evidence_is_the_mean_of_the_e_values() -> None:
    assert merged([0.0, 2.0]) == pytest.approx(math.log10(50.5))
    assert merged([-400.0, 400.0]) == pytest.approx(400 - math.log10(2))


def test_nothing_is_evidence_against_a_rate_of_one() -> None:
    assert Evidence.start(Candidate(rate=1.0)).after(1000, 1000).e_value == pytest.approx(0)


@pytest.mark.parametrize("rate", [1e-9, 1e-4, 0.5, 1 - 1e-4])
def test_every_rate_has_alternatives_and_finite_evidence(rate: float) -> None:
    evidence = Evidence.start(Candidate(rate=rate)).after(10**6, 10**6)
    assert math.isfinite(evidence.e_value)
    assert evidence.e_value > 2
    assert math.isfinite(evidence.after(10**9, 0).e_value)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_that_is_not_a_probability_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="rate"):
        Evidence.start(Candidate(rate=rate))


@pytest.mark.parametrize(("n", "total"), [(1, 2), (1, -1), (-1, -1), (math.inf, 0), (1, math.nan)])
def test_sums_that_cannot_be_are_refused(n: float, total: float) -> None:
    with pytest.raises(InvalidInput, match="total"):
        Evidence.start(Candidate(rate=0.5)).after(n, total)


def test_a_block_of_no_images_is_refused() -> None:
    with pytest.raises(InvalidInput, match="give at least 1"):
        Evidence.start(Candidate(rate=0.5), block=0)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (50, 1000), (999, 1000), (4000, 100_000)])
@pytest.mark.parametrize("level", [0.05, 1e-6])
def test_the_bound_of_events_is_that_of_clopper_and_pearson(count: int, n: int, level: float) -> None:
    assert upper_count(count, n, level) == pytest.approx(
        stats.beta.isf(level, count + 1, n - count), rel=1e-9
    )


def test_bounds_reach_one_where_everything_happened() -> None:
    assert upper_count(10, 10, 0.05) == 1
    assert upper_mean(10.0, 10, 0.05) == 1


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("bound", [upper_count, upper_mean])
def test_a_rate_exceeds_its_bound_with_at_most_the_probability_given(rate: float, bound: object) -> None:
    assert callable(bound)
    n, level = 40, 0.05
    below = [k for k in range(n + 1) if bound(k, n, level) < rate]
    assert stats.binom.pmf(below, n, rate).sum() <= level


def test_the_bound_of_numbers_is_where_the_divergence_says_so() -> None:
    bound = upper_mean(7.3, 100, 0.01)
    assert 100 * divergence(0.073, bound) == pytest.approx(math.log(100))
    assert upper_mean(7, 100, 0.01) >= upper_count(7, 100, 0.01)
    assert upper_mean(0.0, 100, 0.01) == pytest.approx(1 - 0.01 ** (1 / 100))


@pytest.mark.parametrize(
    ("total", "n", "level"), [(1, 0, 0.1), (3, 2, 0.1), (-1, 2, 0.1), (1, 2, 0.0), (1, 2, 1.0)]
)
def test_bounds_of_what_cannot_be_are_refused(total: int, n: int, level: float) -> None:
    for bound in (upper_count, upper_mean):
        with pytest.raises(InvalidInput):
            bound(total, n, level)
