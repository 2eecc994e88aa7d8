"""Estimates from counters made by hand, and where they are not to be trusted."""

import numpy as np
import pytest

from serving.monitor.confusion import Confusion
from serving.monitor.estimates import Estimator, headline
from serving.monitor.look import ReferenceValues
from serving.monitor.status import Estimate
from tests.serving.monitor.ensembles import answers, spread
from tests.serving.monitor.world import DOMAIN, ROUTE, Server, counted, values


def estimated(
    server: Server, reference: ReferenceValues, confusion: Confusion | None = None
) -> dict[str, Estimate]:
    estimator = Estimator(counted(server), (ROUTE, DOMAIN), reference, confusion)
    return {estimate.method: estimate for estimate in estimator.estimates()}


def served(images: int = 1000, **means: float) -> Server:
    server = Server()
    server.predict(images, means=means)
    return server


def test_each_mean_over_images_is_one_estimate() -> None:
    server = served(confidence=0.8, atc_mc=0.7, atc_ne=0.75, vote=0.9)
    reference = values(accuracy=0.9, confidence=0.92, estimates={"vote": 0.95, "atc_mc": 0.9, "atc_ne": 0.9})

    found = estimated(server, reference)

    assert {name: round(one.value, 6) for name, one in found.items()} == {
        "atc_mc": 0.7,
        "atc_ne": 0.75,
        "confidence": 0.8,
        "doc": 0.78,
        "vote": 0.85,
    }
    assert (found["doc"].raw, found["vote"].raw, found["atc_mc"].raw) == (0.8, 0.9, None)
    assert all(one.trusted and one.low < one.value < one.high for one in found.values())


def test_a_method_that_scored_fewer_images_is_divided_by_those() -> None:
    server = served(confidence=0.9)
    server.count("corolla_estimated_predictions_total", 200, route=ROUTE, domain=DOMAIN, method="atc_mc")
    server.count("corolla_estimated_correct_total", 150, route=ROUTE, domain=DOMAIN, method="atc_mc")

    assert estimated(server, values())["atc_mc"].value == 0.75


def test_the_references_own_uncertainty_widens_the_interval_of_a_threshold() -> None:
    few, many = (
        estimated(served(10_000, atc_mc=0.9), values(images=images))["atc_mc"] for images in (100, 100_000)
    )

    assert many.high - many.low == pytest.approx(0.0118, abs=0.001)
    assert few.high - few.low > 0.1


@pytest.mark.parametrize(
    ("accuracy", "why"), [(1.0, "every answer on the reference is right"), (0.0, "is wrong, so that")]
)
def test_no_threshold_tells_where_the_reference_has_no_errors_or_nothing_else(
    accuracy: float, why: str
) -> None:
    found = estimated(served(atc_mc=1.0, atc_ne=1.0), values(accuracy=accuracy))

    assert not found["atc_mc"].trusted
    assert why in found["atc_ne"].why


def test_a_method_that_is_wrong_on_the_reference_itself_is_not_trusted() -> None:
    reference = values(accuracy=0.3, confidence=0.9, estimates={"atc_mc": 0.496, "atc_ne": 0.3})

    found = estimated(served(atc_mc=0.5, atc_ne=0.3, confidence=0.9), reference)

    assert [name for name, one in found.items() if one.trusted] == ["atc_ne", "doc"]
    assert found["atc_mc"].why == "it says 49.6% of the reference, whose accuracy is 30.0%"


def test_few_images_are_not_trusted() -> None:
    found = estimated(served(99, confidence=0.9, atc_mc=0.9), values())

    assert {one.why for one in found.values()} == {"99 images; 100 are needed"}


def test_nothing_scored_is_no_estimate() -> None:
    assert estimated(served(), values(pairs={"a:b": 0.9})) == {}


def test_the_agreements_of_an_ensemble_tell_its_accuracy_and_its_members() -> None:
    names = [f"m{number}" for number in range(8)]
    then, now = (answers(spread(8, 0.5), 5000, shift=shift, seed=seed) for shift, seed in ((0, 0), (0.5, 1)))
    reference = values(
        images=5000,
        accuracy=then.accuracy,
        members=dict(zip(names, then.member_accuracies, strict=True)),
        pairs={f"m{i}:m{j}": share for (i, j), share in then.agreements.items()},
    )
    server = Server()
    server.predict(5000, pairs={f"m{i}:m{j}": share for (i, j), share in now.agreements.items()})

    found = estimated(server, reference)

    assert sorted(found) == ["aline_d", "aline_s", "slope1"]
    assert all(one.trusted for one in found.values())
    for one in found.values():
        assert abs(one.value - now.accuracy) < 0.05
    estimator = Estimator(counted(server), (ROUTE, DOMAIN), reference)
    line = estimator.line_status()
    assert line is not None
    assert line.used
    for name, truth in zip(names, now.member_accuracies, strict=True):
        told = estimator.member_accuracy(name)
        assert told is not None
        assert abs(told - truth) < 0.05


def test_two_members_have_no_line_and_are_told_by_slope_1() -> None:
    server = Server()
    server.predict(1000, pairs={"a:b": 0.8})
    reference = values(accuracy=0.9, members={"a": 0.85, "b": 0.86}, pairs={"a:b": 0.9})

    found = estimated(server, reference)

    assert [*found] == ["slope1"]
    assert found["slope1"].value < 0.84


CONFUSION = Confusion(classes=("cat", "dog"), images=np.array([[90.0, 20.0], [10.0, 80.0]]))


def classified(cats: float, dogs: float, *, confidence: float = 0.9, domains: int = 1) -> Server:
    server = Server()
    for number in range(domains):
        server.predict(
            1000, domain=DOMAIN if not number else f"other{number}", means={"confidence": confidence}
        )
    # By name: in which order the series stand does not matter.
    for name, share in (("dog", dogs), ("cat", cats)):
        server.count(
            "corolla_class_predictions_total", 1000 * domains * share, **{"route": ROUTE, "class": name}
        )
    return server


def test_other_shares_of_the_classes_are_undone_by_the_confusion_matrix() -> None:
    # 90 % dogs: 0.1 * 0.9 + 0.9 * 0.2 are called cats.
    found = estimated(classified(0.27, 0.73), values(accuracy=0.85), CONFUSION)["bbse"]

    assert found.value == pytest.approx(0.1 * 0.9 + 0.9 * 0.8)
    assert found.trusted


def test_bbse_is_not_trusted_where_confidence_says_that_more_has_changed() -> None:
    found = estimated(classified(0.27, 0.73, confidence=0.8), values(accuracy=0.85), CONFUSION)["bbse"]

    assert found.why == ("confidence moved from 90.0% to 80.0%, so more than the classes' shares has changed")


def test_bbse_needs_a_matrix_all_classes_and_one_domain() -> None:
    whole = values(accuracy=0.85)

    assert "bbse" not in estimated(classified(0.5, 0.5), whole)
    assert "bbse" not in estimated(classified(0.5, 0.0), whole, CONFUSION)
    assert "bbse" not in estimated(classified(0.5, 0.5, domains=2), whole, CONFUSION)


def one(value: float, method: str = "doc", *, trusted: bool = True) -> Estimate:
    return Estimate(method=method, value=value, low=value - 0.02, high=value + 0.02, trusted=trusted)


def test_the_headline_is_the_median_of_the_trusted_with_the_hull_of_their_intervals() -> None:
    found = headline([one(0.8), one(0.85), one(0.9), one(0.1, trusted=False)], None, None)

    assert found is not None
    assert (found.value, found.spread) == pytest.approx((0.85, 0.1))
    assert (found.low, found.high) == pytest.approx((0.78, 0.92))
    assert found.trusted


def test_estimates_that_differ_or_foreign_images_take_trust_away() -> None:
    apart = headline([one(0.5), one(0.7)], None, None)
    foreign = headline([one(0.7)], (60.0, 200.0), 0.05)
    usual = headline([one(0.7)], (12.0, 200.0), 0.05)

    assert apart is not None
    assert foreign is not None
    assert usual is not None
    assert apart.why == "the estimates differ by 20 points"
    assert foreign.why == "30% of the images are unlike the reference's; 5% is usual"
    assert usual.trusted


def test_no_trusted_estimate_is_no_headline() -> None:
    assert headline([one(0.7, trusted=False)], None, None) is None
