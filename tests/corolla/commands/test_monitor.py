"""`corolla monitor` over a metrics port that a test fills."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from corolla import command
from corolla.commands.monitor import monitor
from corolla.monitoring import changes
from petl_vit.errors import CorollaError, NotFound
from serving.metrics.port import MetricsPort
from serving.monitor.look import ReferenceValues
from serving.monitor.names import NAMES
from serving.monitor.status import Alarm, DomainStatus, RouteStatus, Status
from tests.serving.monitor.api import api
from tests.serving.monitor.api import healthy as healthy_answers
from tests.serving.monitor.world import DOMAIN, ROUTE, Server, values
from tests.serving.world import until

MEANS = {"confidence": 0.9, "atc_mc": 0.9, "atc_ne": 0.9}
RATES = {"low_score": 0.1, "unsure": 0.1}


class Shown(Collector):
    """A server's series as a metrics port shows them."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> Iterator[Metric]:
        return (self._family(name, ()) for name in NAMES)

    def collect(self) -> Iterator[Metric]:
        for one in self._server.samples():
            names, texts = zip(*one.labels, strict=True) if one.labels else ((), ())
            family = self._family(one.name, names)
            family.add_metric(texts, one.value)
            yield family

    def _family(self, name: str, labels: Sequence[str]) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        return kind(name, "Help.", labels=labels)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    registry = CollectorRegistry()
    registry.register(Shown(server))
    served = MetricsPort(registry, port=0)
    yield f"127.0.0.1:{served.port}"
    served.close()


def ran(*words: str) -> Result:
    """What the command does; errors of the user are raised."""
    result = CliRunner().invoke(monitor, [*words], env={"COLUMNS": "200"}, standalone_mode=False)
    if isinstance(result.exception, CorollaError | click.UsageError):
        raise result.exception
    return result


def once(url: str, *words: str) -> Any:
    return json.loads(ran("--server-metrics", url, "--once", "--json", *words).stdout)


def healthy(server: Server) -> ReferenceValues:
    reference = values(rates=RATES)
    server.compare_with(reference)
    server.predict(1000, means=MEANS)
    return reference


def test_once_prints_what_there_is_and_ends_with_0(server: Server, url: str) -> None:
    healthy(server)
    server.label(18, 2)

    done = ran("--server-metrics", url, "--once")

    assert (done.exit_code, done.return_value) == (0, None)
    head, row = done.stdout.splitlines()[:2]
    assert head.split()[:4] == ["route", "domain", "images", "confidence"]
    assert row.split()[:6] == [ROUTE, DOMAIN, "1,000", "90.0%", "-", "90.0%"]


def test_once_in_json_is_the_status(server: Server, url: str) -> None:
    healthy(server)

    document = once(url)

    status = Status.model_validate(document)
    assert status.source == f"http://{url}/metrics"
    assert [domain.images for route in status.routes for domain in route.domains] == [1000]
    assert status.alarms == ()


def test_an_alarm_is_told_to_scripts_by_exit_code_1(server: Server, url: str) -> None:
    server.compare_with(values(rates=RATES))
    server.predict(1000, means={"confidence": 0.6, "atc_mc": 0.5, "atc_ne": 0.5})

    done = ran("--server-metrics", url, "--once")

    assert done.return_value == 1
    assert f"ALARM {ROUTE}, {DOMAIN}: shift (" in done.stdout


def test_a_prometheus_is_read_with_its_headers_and_its_past() -> None:
    asked = set()

    def answer(query: str, form: Mapping[str, str]) -> list[Any]:
        asked.add((form["header"], "start" in form))
        return healthy_answers(query, form)

    with api(answer) as address:
        words = ("--prometheus", address, "--job", "corolla", "--header", "X-Scope-OrgID: team")
        done = ran(*words, "--once", "--json", "--history", "1h", "--every", "10m")

    status = Status.model_validate_json(done.stdout)
    assert status.source == f"{address}, job corolla"
    assert asked == {("team", False), ("team", True)}


def test_a_job_that_prometheus_does_not_have_is_refused() -> None:
    with api(lambda query, form: []) as address, pytest.raises(NotFound) as raised:
        ran("--prometheus", address, "--job", "corola", "--once")

    assert (raised.value.field, raised.value.remedy) == ("job", "it has no targets")


def test_what_is_wrong_is_said_beside_the_table(server: Server, url: str) -> None:
    server.predict(1000, means=MEANS)

    done = ran("--server-metrics", url, "--once")

    assert f"note: {ROUTE}: no reference; measure one: corolla routes reference live" in done.stderr

    server.compare_with(values())
    server.predict(30, domain="sketch", means=MEANS)
    done = ran("--server-metrics", url, "--once")

    why = "atc_mc, atc_ne, confidence, doc: 30 images; 100 are needed"
    assert f"note: {ROUTE}, sketch: left out of the estimate: {why}" in done.stderr


def test_a_state_file_carries_what_was_seen_to_the_next_call(
    server: Server, url: str, tmp_path: Path
) -> None:
    state = str(tmp_path / "state.json")
    healthy(server)
    assert once(url, "--state", state)["routes"][0]["domains"][0]["images"] == 1000
    server.restart(50.0)
    healthy(server)

    assert once(url, "--state", state)["routes"][0]["domains"][0]["images"] == 2000


def test_it_runs_until_a_signal_serves_its_gauges_and_says_what_changes(
    server: Server, url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.compare_with(values(rates=RATES))
    scraped: list[str] = []
    serving = MetricsPort.__init__

    def noted(self: MetricsPort, *args: Any, **settings: Any) -> None:
        serving(self, *args, **settings)
        threading.Thread(target=shifted, args=(self.port,)).start()

    def shifted(port: int) -> None:
        server.predict(1000, means={"confidence": 0.6, "atc_mc": 0.5, "atc_ne": 0.5})
        alarm = f'corolla_alarm{{domain="{DOMAIN}",kind="shift",route="{ROUTE}"}} 1.0'

        def raised() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                scraped.append(answer.read().decode())
            return alarm in scraped[-1]

        try:
            until(raised)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsPort, "__init__", noted)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = command.run(["monitor", "--server-metrics", url, "--port", "0", "--every", "1"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    told = capfd.readouterr().err
    assert code == 0
    assert f"reading http://{url}/metrics every 1 s; status http://127.0.0.1:" in told
    assert f"ALARM {ROUTE}, {DOMAIN}: shift" in told
    assert "corolla_evaluator_problems 0.0" in scraped[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a server or a Prometheus is to be read"),
        (("--server-metrics", "a:1", "--prometheus", "b:1"), "not both; leave one out"),
        (("--prometheus", "b:1"), "job: missing"),
        (("--server-metrics", "a:1", "--job", "x"), "job: it needs a Prometheus"),
        (("--server-metrics", "a:1", "--header", "x: y"), "header: it needs a Prometheus"),
        (("--prometheus", "b:1", "--job", "x", "--header", "xy"), "header: 'xy' is not a header"),
        (("--server-metrics", "//", "--once"), "server_metrics: '//' is not a URL"),
        (("--prometheus", "ftp://x", "--job", "x"), "prometheus: 'ftp://x' is not a URL"),
        (("--server-metrics", "a:1", "--window", "5s"), "5s is shorter than 1m"),
        (("--server-metrics", "127.0.0.1:1", "--once"), "does not answer"),
        (("--server-metrics", "a:1", "--state", "/nowhere/at/all"), "/nowhere/at is not a folder"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_flag(words: tuple[str, ...], said: str) -> None:
    with pytest.raises((CorollaError, click.UsageError)) as raised:
        ran(*words)

    assert said in getattr(raised.value, "message", str(raised.value))


def test_a_port_that_is_taken_names_its_flag(url: str) -> None:
    with pytest.raises(CorollaError, match="port: cannot listen on") as raised:
        ran("--server-metrics", url, "--port", url.rpartition(":")[2])

    assert raised.value.remedy == "choose another, or 0 for a free one"


def test_alarms_and_problems_that_come_and_go_are_lines() -> None:
    quiet = Status(at=1.0, source="s", window_s=60, label_window_s=60)
    alarm = Alarm(
        route=ROUTE,
        domain=DOMAIN,
        kind="accuracy",
        indicator="error",
        e_value=3.04,
        threshold=2.3,
        images=1234,
        first_seen=2.0,
    )
    domain = DomainStatus(domain=DOMAIN, images=1, images_in_window=1, alarms=(alarm,))
    loud = quiet.model_copy(
        update={
            "problems": ("it is late",),
            "routes": (RouteStatus(route=ROUTE, problem="no reference", domains=(domain,)),),
        }
    )

    assert [*changes(quiet, loud)] == [
        f"ALARM {ROUTE}, {DOMAIN}: accuracy (error) after 1,234 labels; evidence 10^3.0, 10^2.3 was needed",
        "problem: it is late",
        f"problem: {ROUTE}: no reference",
    ]
    assert [*changes(loud, quiet)] == [
        f"no longer: alarm of {ROUTE}, {DOMAIN}, accuracy",
        "no longer: it is late",
        f"no longer: {ROUTE}: no reference",
    ]
    assert [*changes(loud, loud)] == []
