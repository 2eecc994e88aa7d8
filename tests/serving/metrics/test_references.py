"""What a scrape shows of the references that named routes are compared with."""

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.definitions import SECTIONS
from serving.metrics.events import Metrics
from tests.model_store.references import usable_reference
from tests.serving.metrics.counting import counts, series, value

ROUTE = "digits/all"
MEMBERS = ("lora", "ssf", "lora")
CONSTANTS = [
    d.name
    for d in SECTIONS["References"]
    if d.name not in ("corolla_reference_stale", "corolla_reference_images", "corolla_temperature_ratio")
]


@pytest.fixture
def metrics() -> Metrics:
    """Of a server with one named route, which was not compared with anything yet."""
    metrics = Metrics(CollectorRegistry())
    metrics.add_route(ROUTE, MEMBERS)
    return metrics


def state(metrics: Metrics) -> tuple[float | None, float | None, list[str]]:
    """Whether the reference is stale, the images behind it, and which other gauges there are."""
    shown = [name for name in CONSTANTS if series(metrics, name)]
    gauges = ("corolla_reference_stale", "corolla_reference_images")
    stale, images = (value(metrics, name, route=ROUTE) for name in gauges)
    return stale, images, shown


def test_a_route_without_a_reference_has_no_images_from_the_start(metrics: Metrics) -> None:
    assert state(metrics) == (0, 0, [])


def test_a_reference_is_shown_with_all_its_constants(metrics: Metrics) -> None:
    reference = usable_reference(*MEMBERS)
    metrics.set_reference(ROUTE, reference)
    metrics.set_temperature(ROUTE, 1.5)
    assert state(metrics) == (0, 2, CONSTANTS)
    scoring = metrics.scoring(ROUTE, reference.route.digest)
    assert scoring is not None
    assert scoring.thresholds == {"atc_mc": -0.1}
    assert metrics.scoring(ROUTE, "another") is None
    assert value(metrics, "corolla_temperature_ratio", route=ROUTE) == 1.5
    assert value(metrics, "corolla_reference_accuracy_ratio", route=ROUTE) == 0.5
    assert value(metrics, "corolla_reference_confidence_ratio", route=ROUTE) == 0.775
    assert value(metrics, "corolla_reference_unanimous_ratio", route=ROUTE) == 0.5
    assert counts(metrics, "corolla_reference_estimate_ratio", "method") == {
        "confidence": 0.775,
        "vote": 1.0,
        "atc_mc": 0.5,
    }
    assert counts(metrics, "corolla_reference_rate_ratio", "indicator") == pytest.approx(
        {
            "error": 0.5,
            "unsure": 0.225,
            "low_score": 0.5,
            "disagreement": 0.5,
            "foreign": 0.5,
            "override": 0.5,
        }
    )
    bins = counts(metrics, "corolla_reference_bin_ratio", "bin")
    assert {bin_: share for bin_, share in bins.items() if share} == {"5": 0.5, "9": 0.5}


def test_its_labels_are_those_of_the_traffic(metrics: Metrics) -> None:
    """Else PromQL could not join the two."""
    metrics.set_reference(ROUTE, usable_reference(*MEMBERS))
    for gauge, counter, label in (
        ("corolla_reference_member_accuracy_ratio", "corolla_member_predictions_total", "member"),
        ("corolla_reference_pair_agreement_ratio", "corolla_ensemble_pair_agreements_total", "pair"),
        ("corolla_reference_bin_ratio", "corolla_prediction_bin_total", "bin"),
    ):
        of_traffic = counts(metrics, counter, label, route=ROUTE)
        assert counts(metrics, gauge, label, route=ROUTE).keys() == of_traffic.keys()
    edges = counts(metrics, "corolla_prediction_confidence_ratio_bucket", "le", route=ROUTE)
    shares = counts(metrics, "corolla_reference_confidence_cdf_ratio", "edge", route=ROUTE)
    assert shares.keys() == edges.keys() - {"+Inf"}


def test_a_stale_reference_is_shown_as_such_and_gives_no_constants(metrics: Metrics) -> None:
    reference = usable_reference(*MEMBERS)
    metrics.set_reference(ROUTE, reference)
    metrics.set_reference(ROUTE, reference, "its temperature was 1.5, now 2")
    assert state(metrics) == (1, 0, ["corolla_reference_info"])
    assert metrics.scoring(ROUTE, reference.route.digest) is None


def test_a_reference_of_too_few_images_is_shown_and_gives_no_constants(metrics: Metrics) -> None:
    reference = usable_reference(*MEMBERS, no_estimate="2 images are fewer than 50")
    metrics.set_reference(ROUTE, reference)
    assert state(metrics) == (0, 2, ["corolla_reference_info"])
    assert metrics.scoring(ROUTE, reference.route.digest) is None


def test_another_reference_takes_the_place_of_the_one_before(metrics: Metrics) -> None:
    for reference in (usable_reference(*MEMBERS), usable_reference(*MEMBERS, accuracy=0.25)):
        metrics.set_reference(ROUTE, reference)
    (info,) = series(metrics, "corolla_reference_info")
    assert info["digest"] == reference.route.digest[:12]
    assert info["data"] == reference.data.digest[:12]
    assert value(metrics, "corolla_reference_accuracy_ratio", route=ROUTE) == 0.25
    metrics.set_reference(ROUTE, None)
    assert state(metrics) == (0, 0, [])


def test_two_replicas_that_compare_with_different_references_show_different_digests() -> None:
    shown = []
    for accuracy in (0.5, 0.25):
        replica = Metrics(CollectorRegistry())
        replica.add_route(ROUTE, MEMBERS)
        replica.set_reference(ROUTE, usable_reference(*MEMBERS, accuracy=accuracy))
        shown += series(replica, "corolla_reference_info")
    assert shown[0] != shown[1]
    assert {name for name in shown[0] if shown[0][name] != shown[1][name]} == {"reference"}


def test_a_route_that_gets_other_members_is_no_longer_compared(metrics: Metrics) -> None:
    metrics.set_reference(ROUTE, usable_reference(*MEMBERS))
    metrics.add_route(ROUTE, ("bitfit",))
    assert state(metrics) == (0, 0, [])


def test_many_members_have_no_series_of_their_own() -> None:
    for members, accuracies, pairs in ((8, 8, 28), (9, 9, 0), (17, 0, 0)):
        metrics = Metrics(CollectorRegistry())
        names = [f"m{number}" for number in range(members)]
        metrics.add_route(ROUTE, names)
        metrics.set_reference(ROUTE, usable_reference(*names))
        assert len(series(metrics, "corolla_reference_member_accuracy_ratio")) == accuracies
        assert len(series(metrics, "corolla_reference_pair_agreement_ratio")) == pairs


def test_a_route_that_the_metrics_do_not_know_has_no_reference(metrics: Metrics) -> None:
    metrics.set_reference("digits/unheard", usable_reference(*MEMBERS))
    metrics.set_temperature("digits/unheard", 2.0)
    assert series(metrics, "corolla_reference_stale", route="digits/unheard") == []
    assert series(metrics, "corolla_temperature_ratio") == []
