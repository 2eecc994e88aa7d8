"""Readings from Prometheus: its answers by hand, for what is rare, and the real one."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from petl_vit.errors import NotFound, Unreachable
from serving.metrics.port import MetricsPort
from serving.monitor.evaluator import Evaluator, EvaluatorSettings
from serving.monitor.prometheus_api import PrometheusSource, instance_of
from serving.monitor.status import Status
from tests.prometheus import Prometheus
from tests.serving.monitor.api import NOW, api, healthy, series
from tests.serving.monitor.world import DOMAIN, ROUTE
from tests.serving.world import until


def source(url: str, **settings: Any) -> PrometheusSource:
    return PrometheusSource(url, "corolla", clock=lambda: NOW, **settings)


def test_values_come_with_their_instance_and_without_labels_of_others() -> None:
    def answer(query: str, form: Mapping[str, str]) -> list[Any]:
        return [series(7, pod="a"), series(8, pod="b")] if "__name__" in query else healthy(query, form)

    with api(answer) as url:
        reading = source(url).read()

    assert reading.at == NOW
    assert [(one.instance, one.value) for one in reading.samples] == [
        ("one:9090,pod=a", 7),
        ("one:9090,pod=b", 8),
    ]
    assert {one.labels for one in reading.samples} == {(("domain", DOMAIN), ("route", ROUTE))}
    assert reading.problems == ()


def test_a_replica_is_told_by_whatever_prometheus_adds() -> None:
    labels = {"__name__": "x", "job": "j", "route": "r", "instance": "i", "zone": "b", "cluster": "a"}

    assert instance_of(labels) == "i,cluster=a,zone=b"


def test_headers_go_with_every_question() -> None:
    asked = []

    def answer(query: str, form: Mapping[str, str]) -> list[Any]:
        asked.append(form["header"])
        return healthy(query, form)

    with api(answer) as url:
        source(url, headers={"X-Scope-OrgID": "team"}).read()

    assert {*asked} == {"team"}


@pytest.mark.parametrize(
    ("changed", "result", "said"),
    [
        ("up{", [{"metric": {"instance": "one:9090"}, "value": [NOW, "0"]}], "cannot scrape one:9090"),
        ("up{", [], "has no target of job 'corolla'; it has no targets"),
        (
            "timestamp(",
            [{"metric": {"instance": "one:9090"}, "value": [NOW, str(NOW - 200)]}],
            "the last scrape of one:9090 is 200 s old",
        ),
        ("{__name__", [], "have no metrics of Corolla"),
    ],
)
def test_what_is_missing_is_said(changed: str, result: list[Any], said: str) -> None:
    def answer(query: str, form: Mapping[str, str]) -> list[Any]:
        if query.startswith("count by (job)"):
            return []
        return result if query.startswith(changed) else healthy(query, form)

    with api(answer) as url:
        (problem,) = source(url).read().problems

    assert said in problem


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"status": "error", "error": "query timed out"}, "answers 422: query timed out"),
        ({"status": "success", "data": {"result": [{"value": 3}]}}, "does not answer as Prometheus does"),
        ({"status": "success"}, "does not answer as Prometheus does"),
    ],
)
def test_an_error_or_another_program_is_said(document: dict[str, Any], said: str) -> None:
    with api(lambda query, form: document) as url, pytest.raises(Unreachable, match=said):
        source(url).read()


def test_a_job_that_does_not_exist_names_one_that_is_near() -> None:
    def answer(query: str, form: Mapping[str, str]) -> list[Any]:
        return [] if query.startswith("up{") else [{"metric": {"job": "corolla"}, "value": [NOW, "1"]}]

    with api(answer) as url, pytest.raises(NotFound, match="no target of job 'corola'") as raised:
        PrometheusSource(url, "corola").check()

    assert raised.value.remedy == "did you mean corolla?"


def test_the_past_is_read_in_order_and_a_moment_without_values_is_empty() -> None:
    spans = []

    def answer(query: str, form: Mapping[str, str]) -> list[Any]:
        start, end, step = (float(form[name]) for name in ("start", "end", "step"))
        spans.append((start, end))
        moments = [start + number * step for number in range(round((end - start) / step) + 1)]
        values = [[moment, str(moment)] for moment in moments if not 5000 <= moment < 6000]
        return [series(0) | {"values": values}]

    with api(answer) as url:
        readings = [*source(url, step_s=300.0, history_s=9000.0).history(1000.0)]

    moments = [reading.at for reading in readings]
    assert moments == [1300.0 + 300 * number for number in range(30)]
    assert [reading.at for reading in readings if not reading.samples] == [5200.0, 5500.0, 5800.0]
    assert all(reading.samples[0].value == reading.at for reading in readings if reading.samples)
    assert len(spans) == 3
    assert all(end - start <= 3300 for start, end in spans)


def test_no_past_is_asked_for_where_there_is_none() -> None:
    with api(healthy) as url:
        assert [*source(url, step_s=300.0).history(NOW - 100)] == []


class Replica:
    """A metrics port whose counter a test moves; it can go and come back at its address."""

    def __init__(self) -> None:
        self._port = 0
        self.start()

    def start(self, started: float = 0.0) -> None:
        registry = CollectorRegistry()
        answered = Counter("corolla_predictions_total", "Answered.", ["route", "domain"], registry=registry)
        Gauge("process_start_time_seconds", "Start.", registry=registry).set(started or time.time())
        self.answered = answered.labels(ROUTE, DOMAIN)
        self._served = MetricsPort(registry, port=self._port)
        self._port = self.port = self._served.port

    def stop(self) -> None:
        self._served.close()


def images(status: Status) -> int:
    return sum(domain.images for route in status.routes for domain in route.domains)


def test_a_real_prometheus_is_followed_over_restarts_of_a_server_and_of_itself(tmp_path: Path) -> None:
    replicas = [Replica(), Replica()]
    try:
        with Prometheus([replica.port for replica in replicas], tmp_path) as real:
            _follow(real, replicas)
    finally:
        for replica in replicas:
            replica.stop()


def _follow(real: Prometheus, replicas: list[Replica]) -> None:
    found = PrometheusSource(real.url, "corolla", history_s=60, step_s=1.0)
    found.check()
    evaluator = Evaluator(found, EvaluatorSettings())

    def seen() -> tuple[int, tuple[str, ...]]:
        status = evaluator.step()
        return images(status), status.problems

    for number, replica in enumerate(replicas):
        replica.answered.inc(100 * (number + 1))
    until(lambda: seen() == (300, ()))

    replicas[0].stop()
    down = f"Prometheus cannot scrape 127.0.0.1:{replicas[0].port}"
    until(lambda: seen() == (300, (down,)))
    replicas[0].start()
    replicas[0].answered.inc(500)  # more than before its restart
    until(lambda: seen() == (800, ()))

    real.stop()
    still, problems = seen()
    assert still == 800
    assert "does not answer" in problems[0]
    replicas[1].answered.inc(7)
    real.start()
    until(lambda: seen() == (807, ()))

    evaluator = Evaluator(found, EvaluatorSettings())
    # The first 100 are not there where no moment of the past lies between them and the restart.
    until(lambda: seen()[0] in (707, 807))
