"""ALine against plain formulas with scipy, and on ensembles whose shift is known."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm

from serving.monitor import agreement_line
from serving.monitor.agreement_line import Pair
from tests.serving.monitor.ensembles import Answers, answers, spread

IMAGES = 10**9  # so many that shares are not moved off 0 and 1


def names(members: int) -> list[str]:
    return [f"m{number}" for number in range(members)]


def pairs_of(reference: Answers, window: Answers) -> list[Pair]:
    images = len(window.labels)
    return [
        Pair(first=f"m{i}", second=f"m{j}", reference=then, window=window.agreements[i, j], images=images)
        for (i, j), then in reference.agreements.items()
    ]


def exact_pairs(slope: float, bias: float, reference: dict[tuple[int, int], float]) -> list[Pair]:
    return [
        Pair(
            first=f"m{i}",
            second=f"m{j}",
            reference=then,
            window=float(norm.cdf(slope * norm.ppf(then) + bias)),
            images=IMAGES,
        )
        for (i, j), then in reference.items()
    ]


def agreements(members: int) -> dict[tuple[int, int], float]:
    return {(i, j): 0.7 + 0.02 * i + 0.01 * j for i, j in combinations(range(members), 2)}


def test_a_line_that_is_there_is_found_and_carries_accuracies_along() -> None:
    slope, bias, accuracy = 0.8, -0.4, 0.9
    members = dict(zip(names(4), [0.86, 0.88, 0.9, 0.92], strict=True))

    line = agreement_line.fit(exact_pairs(slope, bias, agreements(4)), IMAGES)

    assert line is not None
    assert (line.slope, line.bias, line.r2) == pytest.approx((slope, bias, 1.0))
    expected = norm.cdf(slope * norm.ppf(accuracy) + bias)
    assert agreement_line.on_the_line(line, accuracy, IMAGES)[0] == pytest.approx(expected, abs=1e-6)
    assert agreement_line.carried(line, members, accuracy, IMAGES)[0] == pytest.approx(expected, abs=1e-6)


def test_aline_d_solves_the_papers_equations() -> None:
    random = np.random.default_rng(1)
    reference = agreements(5)
    members = dict(zip(names(5), random.uniform(0.75, 0.9, 5), strict=True))
    pairs = [
        Pair(
            first=pair.first,
            second=pair.second,
            reference=pair.reference,
            window=pair.window - 0.01 * random.random(),
            images=IMAGES,
        )
        for pair in exact_pairs(0.9, -0.3, reference)
    ]
    line = agreement_line.fit(pairs, IMAGES)
    assert line is not None

    solved = agreement_line.solved(line, members, IMAGES)

    a, x = line.slope, {name: norm.ppf(value) for name, value in members.items()}
    matrix = np.array([[0.5 * (name in (p.first, p.second)) for name in members] for p in pairs])
    right = [norm.ppf(p.window) + a * ((x[p.first] + x[p.second]) / 2 - norm.ppf(p.reference)) for p in pairs]
    expected = np.linalg.pinv(matrix) @ np.array(right)
    assert list(solved.values()) == pytest.approx(expected, abs=1e-6)


def test_aline_d_keeps_to_the_line_where_one_member_is_in_all_usable_pairs() -> None:
    """Good members agree too often for a line, so that only their pairs with the weak one are left."""
    weak = {(0, number): 0.7 + 0.01 * number for number in range(1, 8)}
    good = dict.fromkeys(combinations(range(1, 8), 2), 0.995)
    members = dict(zip(names(8), [0.72, *[0.97 + 0.001 * number for number in range(7)]], strict=True))

    for bias in (0.0, -0.3):
        line = agreement_line.fit(exact_pairs(1.0, bias, weak | good), IMAGES)
        assert line is not None
        assert (line.why_not, len(line.pairs)) == ("", 7)
        expected = norm.cdf(norm.ppf(0.97) + bias)
        assert agreement_line.carried(line, members, 0.97, IMAGES)[0] == pytest.approx(expected, abs=1e-6)


def test_members_that_differ_give_a_line_that_tells_the_accuracy() -> None:
    qualities, errors = spread(8, 0.5), []
    reference = answers(qualities, 5000, shift=0.0, seed=0)
    members = dict(zip(names(8), reference.member_accuracies, strict=True))
    for seed in range(1, 6):
        window = answers(qualities, 5000, shift=0.6, seed=seed)
        line = agreement_line.fit(pairs_of(reference, window), 5000)
        assert line is not None
        assert line.why_not == ""
        by_line = agreement_line.on_the_line(line, reference.accuracy, 5000)[0]
        by_pairs = agreement_line.carried(line, members, reference.accuracy, 5000)[0]
        errors += [abs(by_line - window.accuracy), abs(by_pairs - window.accuracy)]
        assert reference.accuracy - window.accuracy > 0.1

    assert max(errors) < 0.05


def test_members_that_are_equally_good_give_no_line_and_slope_1_is_still_near() -> None:
    qualities, fitted, moved = spread(8, 0.02), [], []
    reference = answers(qualities, 5000, shift=0.0, seed=0)
    for seed in range(1, 9):
        window = answers(qualities, 1000, shift=0.0, seed=seed)
        pairs = pairs_of(reference, window)
        line = agreement_line.fit(pairs, 5000)
        assert line is not None
        assert "R^2" in line.why_not
        fitted.append(abs(agreement_line.on_the_line(line, reference.accuracy, 5000)[0] - window.accuracy))
        slope1 = agreement_line.shifted(pairs, reference.accuracy, 5000)
        assert slope1 is not None
        moved.append(abs(slope1[0] - window.accuracy))

    assert np.mean(moved) < 0.01
    assert np.mean(fitted) > 2 * np.mean(moved)


def test_the_intervals_of_slope_1_cover_unshifted_accuracy_at_least_as_often_as_they_say() -> None:
    qualities = spread(5, 0.1)
    truth = answers(qualities, 100_000, shift=0.0, seed=99).accuracy
    covered = 0
    for seed in range(100):
        reference = answers(qualities, 400, shift=0.0, seed=seed)
        window = answers(qualities, 400, shift=0.0, seed=1000 + seed)
        moved = agreement_line.shifted(pairs_of(reference, window), reference.accuracy, 400)
        assert moved is not None
        covered += moved[1][0] <= truth <= moved[1][1]

    assert covered >= 93


def test_pairs_that_nearly_always_agree_make_no_line_but_still_show_a_fall() -> None:
    then = dict.fromkeys(agreements(4), 0.995)
    pairs = [
        Pair(first=f"m{i}", second=f"m{j}", reference=share, window=0.9, images=2000)
        for (i, j), share in then.items()
    ]

    assert agreement_line.fit(pairs, 500) is None
    moved = agreement_line.shifted(pairs, 0.99, 500)
    assert moved is not None
    assert moved[0] < 0.9


def test_equal_shares_stay_equal_whatever_the_numbers_of_images() -> None:
    pairs = [Pair(first="a", second="b", reference=1.0, window=1.0, images=50_000)]

    moved = agreement_line.shifted(pairs, 0.98, 500)

    assert moved is not None
    assert moved[0] == pytest.approx(0.98, abs=0.002)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_an_accuracy_of_0_or_1_stays_finite(accuracy: float) -> None:
    line = agreement_line.fit(exact_pairs(1.0, -0.2, agreements(4)), 300)
    assert line is not None

    value, (low, high) = agreement_line.on_the_line(line, accuracy, 300)

    assert 0 <= low <= value <= high <= 1


def test_few_images_few_pairs_and_a_bad_fit_are_said() -> None:
    few_images = [
        Pair(first=p.first, second=p.second, reference=p.reference, window=p.window, images=499)
        for p in exact_pairs(1.0, -0.2, agreements(4))
    ]
    few_pairs = exact_pairs(1.0, -0.2, agreements(3))

    said = [agreement_line.fit(pairs, 500) for pairs in (few_images, few_pairs)]

    assert [line.why_not for line in said if line] == [
        "499 images; 500 are needed",
        "3 usable pairs of members; 6 are needed",
    ]
