"""What a scrape of the evaluator shows."""

import subprocess

from prometheus_client import CollectorRegistry, generate_latest

from serving.monitor.gauges import DEFINITIONS, Gauges
from serving.monitor.status import (
    Alarm,
    DomainStatus,
    Estimate,
    Headline,
    Line,
    Measured,
    PostStratified,
    PredictionPowered,
    RouteStatus,
    Status,
)
from tests import prometheus
from tests.serving.monitor.world import DOMAIN, ROUTE

PLACE = {"route": ROUTE, "domain": DOMAIN}


def status() -> Status:
    alarm = Alarm(
        route=ROUTE,
        domain=DOMAIN,
        kind="shift",
        indicator="low_score",
        e_value=3.5,
        threshold=2.3,
        images=400,
        first_seen=90.0,
    )
    domain = DomainStatus(
        domain=DOMAIN,
        images=500,
        images_in_window=400,
        estimates=(
            Estimate(method="doc", value=0.8, low=0.7, high=0.9),
            Estimate(method="bbse", value=0.9, low=0.8, high=1.0, trusted=False, why="x"),
        ),
        headline=Headline(value=0.8, low=0.7, high=0.9, spread=0.05),
        line=Line(r2=0.97, slope=0.9, pairs=10, used=True),
        measured=Measured(
            labels=50,
            accuracy=0.7,
            low=0.6,
            high=0.8,
            prediction_powered=PredictionPowered(value=0.75, low=0.65, high=0.85, labels=40),
            post_stratified=PostStratified(value=0.74, low=0.64, high=0.84, covered=1),
        ),
        alarms=(alarm,),
        evidence={"low_score": 3.5, "foreign": -0.2},
        threshold=2.3,
    )
    return Status(
        at=100.0,
        source="servers",
        problems=("one", "two"),
        window_s=3600,
        label_window_s=86400,
        routes=(RouteStatus(route=ROUTE, domains=(domain,)),),
    )


def registry(shown: Status) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Gauges(lambda: shown))
    return registry


def test_every_number_of_a_status_is_a_gauge() -> None:
    scraped = registry(status())

    def value(name: str, **labels: str) -> float | None:
        return scraped.get_sample_value(name, labels)

    assert value("corolla_estimated_accuracy_ratio", **PLACE, method="doc") == 0.8
    assert value("corolla_estimated_accuracy_low_ratio", **PLACE, method="bbse") == 0.8
    assert value("corolla_estimated_accuracy_high_ratio", **PLACE, method="bbse") == 1.0
    assert value("corolla_estimate_trusted", **PLACE, method="bbse") == 0
    assert value("corolla_accuracy_headline_ratio", **PLACE) == 0.8
    assert value("corolla_estimate_spread_ratio", **PLACE) == 0.05
    assert value("corolla_agreement_line_r2_ratio", **PLACE) == 0.97
    assert value("corolla_prediction_powered_accuracy_low_ratio", **PLACE) == 0.65
    assert value("corolla_post_stratified_accuracy_ratio", **PLACE) == 0.74
    assert value("corolla_evidence", **PLACE, indicator="low_score") == 3.5
    assert value("corolla_evidence_threshold", **PLACE) == 2.3
    assert value("corolla_alarm", **PLACE, kind="shift") == 1
    assert value("corolla_alarm", **PLACE, kind="accuracy") == 0
    assert value("corolla_evaluator_last_run_timestamp_seconds") == 100
    assert value("corolla_evaluator_problems") == 2


def test_what_is_not_known_has_no_series() -> None:
    empty = Status(at=0.0, source="servers", window_s=60, label_window_s=60)

    families = {family.name: len(family.samples) for family in registry(empty).collect()}

    assert {name for name, samples in families.items() if samples} == {
        "corolla_evaluator_last_run_timestamp_seconds",
        "corolla_evaluator_problems",
    }
    assert {*families} == {definition.name for definition in DEFINITIONS}


def test_promtool_finds_nothing_to_complain_about() -> None:
    page = generate_latest(registry(status()))

    checked = subprocess.run(
        [prometheus.tool("promtool"), "check", "metrics"], input=page, capture_output=True, check=False
    )

    assert (checked.returncode, checked.stderr) == (0, b"")
