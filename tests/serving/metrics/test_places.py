"""Which series a scrape shows: those of routes and domains that were counted, and of few others."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serving.metrics.events import Metrics
from serving.metrics.label_values import MAX_DOMAINS, MAX_ROUTES, ZERO_PLACES, Domains
from tests.serving.metrics.counting import counts, label, predict, series, value

MEMBERS = ("lora", "ssf", "bitfit")


def metrics_of(routes: int, domains: int, *members: str) -> Metrics:
    metrics = Metrics(CollectorRegistry(), Domains([f"domain-{number}" for number in range(domains)]))
    for number in range(routes):
        name = f"route-{number}"
        metrics.add_route(name, members)
        for member in members:
            metrics.set_adapter(route=name, member=member, version="1", method=member, digest="d")
    return metrics


def lines(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


def test_the_series_of_many_routes_and_domains_appear_with_their_first_image() -> None:
    metrics = metrics_of(MAX_ROUTES, MAX_DOMAINS, *MEMBERS)
    before = lines(metrics)
    here = {"route": "route-900", "domain": "domain-3"}
    assert value(metrics, "corolla_predictions_total", **here) is None

    predict(metrics, **here)

    new = {line.rpartition(" ")[0] for line in lines(metrics)} - {line.rpartition(" ")[0] for line in before}
    # A line for each adapter, two of the reference, and the places that are shown at zero.
    assert len(before) < 19 * MAX_ROUTES
    assert len(new) < 300
    assert all('route="route-900"' in line for line in new)
    assert value(metrics, "corolla_predictions_total", **here) == 1


def test_all_series_of_a_route_in_a_domain_appear_at_once() -> None:
    metrics = metrics_of(ZERO_PLACES, 1, *MEMBERS)
    here = {"route": f"route-{ZERO_PLACES - 1}", "domain": "domain-0"}
    predict(metrics, **here)
    before = len(lines(metrics))

    predict(metrics, **here, votes=[1, 2, 3], confidence=0.1)
    label(metrics, **here, correct=False, members=dict.fromkeys(MEMBERS, True))
    metrics.invalid_scores(here["route"], "lora")

    assert len(lines(metrics)) == before
    assert len(series(metrics, "corolla_prediction_bin_total", **here)) == 10


def test_few_routes_and_domains_are_shown_at_zero_so_that_their_first_image_counts() -> None:
    metrics = metrics_of(10, 4, *MEMBERS)
    shown = counts(metrics, "corolla_predictions_total", "route", domain="unset")
    assert shown == dict.fromkeys(["adhoc", *(f"route-{number}" for number in range(9))], 0)
    # 9 routes and `adhoc` in 6 domains are 60 places; one more route does not fit.
    assert series(metrics, "corolla_predictions_total", route="route-9") == []


def test_a_label_that_comes_before_any_image_shows_its_route() -> None:
    metrics = metrics_of(ZERO_PLACES, 1, *MEMBERS)
    here = {"route": f"route-{ZERO_PLACES - 1}", "domain": "domain-0"}
    label(metrics, **here, correct=True, members={"lora": True})

    assert value(metrics, "corolla_feedback_total", **here, outcome="correct") == 1
    assert value(metrics, "corolla_feedback_total", **here, outcome="incorrect") == 0
    assert value(metrics, "corolla_predictions_total", **here) == 0


def test_a_route_that_is_not_shown_yet_appears_with_its_new_members() -> None:
    metrics = metrics_of(ZERO_PLACES, 1, *MEMBERS)
    route = f"route-{ZERO_PLACES - 1}"
    metrics.add_route(route, ["lora", "vpt"])
    predict(metrics, route=route, domain="domain-0", votes=[3, 5])
    metrics.add_route(route, ["lora", "full"])
    predict(metrics, route=route, domain="domain-0", votes=[3, 5])

    assert counts(metrics, "corolla_member_predictions_total", "member", route=route) == {
        "lora": 2,
        "vpt": 1,
        "full": 1,
    }


def test_places_beyond_the_limit_count_as_another_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.metrics.events.MAX_PLACES", ZERO_PLACES)
    metrics = metrics_of(200, 1, *MEMBERS)
    for number in range(200):
        predict(metrics, route=f"route-{number}", domain="domain-0")
    label(metrics, "route-199", "domain-0", correct=True, members={"lora": True})

    shown = counts(metrics, "corolla_predictions_total", "route", domain="domain-0")
    assert sum(shown.values()) == 200
    assert len(series(metrics, "corolla_predictions_total")) <= ZERO_PLACES + 3
    assert shown["other"] == 200 - sum(count == 1 for count in shown.values())
    assert value(metrics, "corolla_feedback_total", route="other", domain="domain-0", outcome="correct") == 1


def test_one_member_has_no_series_of_ensembles() -> None:
    metrics = metrics_of(1, 1, "lora")
    predict(metrics, route="route-0", domain="domain-0", votes=[3], agreement=1.0)

    assert len(series(metrics, "corolla_member_predictions_total", route="route-0", domain="domain-0")) == 1
    for name in ("corolla_ensemble_predictions_total", "corolla_ensemble_agreement_ratio_count"):
        assert series(metrics, name, route="route-0") == []


def test_a_domain_that_is_added_is_counted_whether_or_not_it_is_shown_at_zero() -> None:
    for routes, at_zero in ((3, 0), (ZERO_PLACES, None)):
        metrics = metrics_of(routes, 1, *MEMBERS)
        assert metrics.add_domain("street")
        here = {"route": f"route-{routes - 1}", "domain": "street"}
        assert value(metrics, "corolla_predictions_total", **here) == at_zero
        predict(metrics, **here)
        assert value(metrics, "corolla_predictions_total", **here) == 1


def test_the_classes_of_a_route_appear_with_its_first_image() -> None:
    metrics = metrics_of(ZERO_PLACES, 1, *MEMBERS)
    metrics.add_route("birds", MEMBERS, ["finch", "owl"])
    assert series(metrics, "corolla_class_predictions_total", route="birds") == []
    predict(metrics, route="birds", domain="domain-0", predicted=1, class_name="owl")

    counted = {
        labels["class"]: value(metrics, "corolla_class_predictions_total", **labels)
        for labels in series(metrics, "corolla_class_predictions_total", route="birds")
    }
    assert counted == {"finch": 0, "owl": 1}
