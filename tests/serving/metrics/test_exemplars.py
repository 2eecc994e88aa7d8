"""Exemplars: which answer a bucket counted last, for scrapers that ask for OpenMetrics."""

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from serving.metrics.definitions import DEFINITIONS
from serving.metrics.events import Metrics
from serving.metrics.series import Number
from tests.serving.metrics.counting import predict

ID = "c" + "x" * 400


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry())
    made.add_route("all", ["lora", "ssf", "bitfit"])
    return made


def exemplars(metrics: Metrics) -> Iterator[tuple[dict[str, str], Exemplar]]:
    """By the labels of their samples, as a scraper reads them."""
    text = generate_openmetrics(metrics.registry).decode()
    for family in text_string_to_metric_families(text):
        yield from ((sample.labels, sample.exemplar) for sample in family.samples if sample.exemplar)


def test_an_unsure_answer_is_the_exemplar_of_its_bucket(metrics: Metrics) -> None:
    predict(metrics, domain="unset", confidence=0.35, prediction_id="c-earlier")
    predict(metrics, domain="unset", confidence=0.38, prediction_id=ID)
    predict(metrics, domain="unset", confidence=0.87, prediction_id="c-sure")

    ((labels, exemplar),) = exemplars(metrics)

    assert labels == {"route": "all", "domain": "unset", "le": "0.4"}
    assert exemplar.labels == {"prediction_id": ID[:32]}
    assert exemplar.value == 0.38
    assert exemplar.timestamp is not None


def test_the_plain_format_has_none_and_the_same_numbers(metrics: Metrics) -> None:
    before = generate_latest(metrics.registry)
    assert b"prediction_id" not in before
    predict(metrics, domain="unset", confidence=0.35, prediction_id=ID)
    assert b"prediction_id" not in generate_latest(metrics.registry)


def test_a_counters_series_has_one_too() -> None:
    (definition,) = (d for d in DEFINITIONS if d.name == "corolla_feedback_total")
    counter = Number(definition)
    labels = ("all", "unset", "incorrect")
    counter.add(labels)
    assert [sample.exemplar for sample in counter.family().samples] == [None]
    counter.add(labels)
    counter.show(labels, ID)
    (sample,) = counter.copy().family().samples
    assert sample.exemplar is not None
    assert (sample.value, sample.exemplar.labels) == (2, {"prediction_id": ID[:32]})
