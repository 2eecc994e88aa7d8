"""What is chosen on the first set, what it costs elsewhere, and the lines of effective robustness."""

import numpy as np
import pytest
from scipy.stats import norm

from petl_vit.errors import InvalidInput
from training.measure.choices import Option, choose, rules_of
from training.measure.curves import checked, curve
from training.measure.robustness import beyond, fitted, probit

SETS = ("here", "there")


def option(
    name: str | float, here: float, there: float, *, nll: float = 1.0, cost: int = 1, n: int = 100
) -> Option:
    """A model that is right about the first images of each set."""
    shares = dict(zip(SETS, (here, there), strict=True))
    return Option(
        name=name,
        correct={on: np.arange(n) < round(share * n) for on, share in shares.items()},
        nll={on: np.full(n, nll) for on in SETS},
        cost=cost,
    )


def test_the_best_on_the_first_set_is_chosen_and_its_cost_elsewhere_is_told() -> None:
    options = [option("robust", 0.80, 0.70), option("sharp", 0.90, 0.50)]
    found = choose(options, "accuracy")
    assert found.chosen == "sharp"
    assert found.accuracy == {"here": pytest.approx(0.9), "there": 0.5}
    assert found.oracle == {"here": "sharp", "there": "robust"}
    assert found.cost == {"here": pytest.approx(0), "there": pytest.approx(0.2)}


def test_likelihood_and_cost_part_what_is_equally_accurate() -> None:
    options = [option("a", 0.9, 0.5, nll=2.0), option("b", 0.9, 0.5, nll=0.5, cost=8)]
    assert choose(options, "accuracy").chosen == "b"
    assert choose(options, "nll").chosen == "b"
    assert choose([options[1], option("c", 0.9, 0.5, nll=0.5)], "nll").chosen == "c"


def test_accuracy_on_the_first_set_is_that_on_images_which_did_not_choose() -> None:
    """Of models that are right by chance, the best looks better than it is; cross-validation does not."""
    random, chosen, best = np.random.default_rng(0), [], []
    for _ in range(20):
        rights = [random.random(60) < 0.5 for _ in range(30)]
        options = [
            Option(name=str(i), correct=dict.fromkeys(SETS, right), nll=dict.fromkeys(SETS, np.ones(60)))
            for i, right in enumerate(rights)
        ]
        found = choose(options, "accuracy")
        chosen.append(found.accuracy["here"])
        best.append(max(right.mean() for right in rights))
        assert found.cost["here"] == pytest.approx(best[-1] - chosen[-1])
    assert np.mean(best) > 0.6
    assert np.mean(chosen) == pytest.approx(0.5, abs=0.04)


def test_the_budget_takes_the_smallest_alpha_that_loses_a_point_and_half_takes_half() -> None:
    options = [
        option(0.0, 0.50, 0.60),
        option(0.5, 0.889, 0.75, n=1000),
        option(0.8, 0.891, 0.70, n=1000),
        option(1.0, 0.90, 0.55, n=1000),
    ]
    assert choose(options[1:], "budget").chosen == 0.8
    assert choose(options[1:], "accuracy").chosen == 1.0
    assert choose(options[1:], "half").chosen == 0.5
    assert rules_of([0, 0.5, 1]) == ("accuracy", "nll", "budget", "half")
    assert rules_of([0, 1]) == ("accuracy", "nll", "budget")


def test_a_line_through_models_on_a_line_leaves_nothing_beyond() -> None:
    here = [0.6, 0.7, 0.8, 0.9]
    there = [float(norm.cdf(0.7 * norm.ppf(a) - 0.4)) for a in here]
    n = 10**7  # so that the half image which keeps probits finite does not show
    line = fitted({str(a): (a, b) for a, b in zip(here, there, strict=True)}, n, n)
    assert line is not None
    assert (line.slope, line.intercept, line.r2) == pytest.approx((0.7, -0.4, 1.0), abs=1e-4)
    assert not line.fixed
    for a, b in zip(here, there, strict=True):
        assert beyond(line, a, n, b) == pytest.approx(0, abs=1e-4)
    assert beyond(line, 0.8, n, there[2] + 0.05) == pytest.approx(0.05, abs=1e-4)


def test_models_that_tell_no_slope_give_one_of_1() -> None:
    alike = fitted({str(i): (0.90 + 0.001 * i, 0.6 - 0.01 * i) for i in range(6)}, 1000, 1000)
    few = fitted({"base": (0.5, 0.4), "lora": (0.9, 0.6)}, 1000, 1000)
    falling = fitted({str(i): (0.5 + 0.1 * i, 0.8 - 0.1 * i) for i in range(4)}, 1000, 1000)
    for line in (alike, few, falling):
        assert line is not None
        assert (line.slope, line.fixed, line.r2) == (1, True, None)
    assert few is not None
    assert few.intercept == pytest.approx(
        np.mean([norm.ppf(0.4) - norm.ppf(0.5), norm.ppf(0.6) - norm.ppf(0.9)]), abs=5e-3
    )
    assert fitted({}, 10, 10) is None


def test_probits_of_certainty_are_finite() -> None:
    assert probit(1.0, 100) == pytest.approx(-probit(0.0, 100))
    assert probit(1.0, 100) == pytest.approx(norm.ppf(100.5 / 101))
    assert probit(0.5, 100) == pytest.approx(0)


def test_a_curve_is_read_against_the_other_models() -> None:
    options = [option(0.0, 0.60, 0.50), option(0.5, 0.85, 0.65), option(1.0, 0.90, 0.50)]
    models = {"base": {"here": 0.6, "there": 0.5}, "lora:1": {"here": 0.9, "there": 0.5}}
    found = curve("lora:1", "lora", options, models, {"here": 100, "there": 100})
    assert found.alphas == (0.0, 0.5, 1.0)
    assert found.accuracy == {"here": (0.6, 0.85, 0.9), "there": (0.5, 0.65, 0.5)}
    assert found.chosen_alpha == 1.0
    assert {one.rule: one.chosen for one in found.choices} == {
        "accuracy": 1.0,
        "nll": 0.0,
        "budget": 1.0,
        "half": 0.5,
    }
    assert found.choices[0].cost["there"] == pytest.approx(0.15)
    line = found.lines["there"]
    assert (line.models, line.fixed) == (("base",), True)
    start, middle, end = found.effective_robustness["there"]
    assert start == pytest.approx(0, abs=1e-9)
    assert middle == pytest.approx(
        0.65 - norm.cdf(probit(0.85, 100) + probit(0.5, 100) - probit(0.6, 100)), abs=1e-9
    )
    assert end < middle


def test_alphas_are_in_order_with_both_ends_and_inside_unless_asked() -> None:
    assert checked([0.5, 0.5, 0.1], extrapolate=False) == (0.0, 0.1, 0.5, 1.0)
    assert checked([1.5], extrapolate=True) == (0.0, 1.0, 1.5)
    with pytest.raises(InvalidInput, match=r"alphas: alpha 1\.5 lies outside \[0, 1\]; .*--extrapolate"):
        checked([1.5], extrapolate=False)
