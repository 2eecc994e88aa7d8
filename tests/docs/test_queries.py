"""Every query of a page, a metric's help, a rule or the dashboard runs in a real Prometheus.

It scrapes two replicas and an evaluator, and evaluates the rules that we ship; those of labels also as if an
hour were a second, to see alerts come and go.
"""

import json
import math
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.grafana import dashboard
from docs.queries import ABSENT, QUERIES
from serving.metrics.definitions import DEFINITIONS
from serving.metrics.events import Metrics
from serving.metrics.label_values import Domains
from serving.metrics.port import MetricsPort
from tests.docs.evaluator import ALARM, Watched
from tests.model_store.references import usable_reference
from tests.prometheus import Prometheus, tool
from tests.serving.metrics.counting import label
from tests.waiting import until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PROMQL = re.compile(r"\b(?:sum|avg|min|max|count|rate|increase|histogram_quantile|group_left)\b[\w\s,()]*\(")
MEMBERS = ("lora", "ssf")
CLASSES = ("zero", "one", "two")
IMAGES = 8
LABEL_FREE = ("corolla_signals", "corolla_tickets", "corolla_upkeep")
"""Groups of rules."""
ROUTE = {"route": "digits/best"}
HERE = ROUTE | {"domain": "photo"}


def shown(pages: Iterable[Path]) -> list[str]:
    """Every PromQL expression of the pages and of the metrics' help, in blocks and in lines."""
    said = []
    in_lines = [definition.help for definition in DEFINITIONS]
    for page in pages:
        text = page.read_text()
        said += [block for kind, block in BLOCK.findall(text) if kind == "promql" or _is_query(block)]
        in_lines.append(BLOCK.sub("", text))
    said += [code for text in in_lines for code in re.findall(r"`([^`]+)`", text) if _is_query(code)]
    return sorted({promql.strip() for promql in said})


def _is_query(text: str) -> bool:
    return "corolla_" in text and PROMQL.search(text) is not None


def rules() -> Iterator[str]:
    """The expressions of the rules in deploy/prometheus/."""
    for file in sorted((ROOT / "deploy" / "prometheus").glob("**/*.y*ml")):
        document: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
        for group in document.get("groups", []):
            yield from (rule["expr"].strip() for rule in group["rules"])


def replica(version: int) -> Metrics:
    """A server that has just started; the series of `digits/late` appear when it is counted."""
    metrics = Metrics(CollectorRegistry(), Domains(["photo"]), zero_places=9)
    metrics.add_methods(["Classify"], ["OK"])
    for route in ("digits/best", "digits/idle", "digits/late"):
        # `best` is a cascade, whose thresholds are void on the second replica.
        metrics.add_route(route, MEMBERS, CLASSES, void=version == 2 if route == "digits/best" else None)
        for member in MEMBERS:
            name = f"{member}:{version if member == 'lora' else 1}"
            metrics.set_adapter(route=route, member=member, version=name, method=member, digest="d")
    metrics.set_reference("digits/best", usable_reference(*MEMBERS, accuracy=version / 4))
    return metrics


def serve(metrics: Metrics, correct: int) -> None:
    """Counts images of two routes, and a label for each, of which some say that the answer was correct."""
    metrics.set_ready(correct == IMAGES)
    metrics.add_methods(["Classify"], ["OK"])
    metrics.invalid_scores("digits/late", "lora")
    for route in ("digits/best", "digits/late"):
        for number in range(IMAGES):
            metrics.request("Classify", "OK", 0.02)
            distance = 0.5 + number % 2
            metrics.frozen(route=route, domain="photo", override=number % 2 == 0, distance=distance)
            metrics.label_requested(route, "photo", "sampled")
            if route == "digits/best":
                whole = number % 2 == 0
                metrics.cascade(
                    route=route, domain="photo", asked=1 + number % 2, as_all=number > 0 if whole else None
                )
            sure = 0.5 if correct == IMAGES else 0.7
            answer(metrics, route, number, correct=number < correct, confidence=sure)


def answer(metrics: Metrics, route: str, number: int, *, correct: bool, confidence: float = 0.5) -> None:
    """Counts one image, and its label."""
    metrics.prediction(
        route=route,
        domain="photo",
        predicted=1,
        class_name="one",
        votes=[1, number % 2],
        confidence=confidence,
        entropy=0.5,
        mutual_information=0.1,
        agreement=0.5 + number % 2 / 2,
        margin=0.2,
        expected={"confidence": 0.5 + number % 2 / 4, "atc_mc": float(number % 2)},
    )
    members = {"lora": correct, "ssf": True}
    label(metrics, route, "photo", correct=correct, members=members, confidence=confidence)


def hurried() -> dict[str, Any]:
    """The rules that look at six hours of labels, with six seconds instead and under names of their own."""
    document = yaml.safe_load(RULES.read_text().replace("Corolla", "Hurried"))
    groups = [group["rules"] for group in document["groups"] if group["name"] not in LABEL_FREE]
    text = yaml.safe_dump([rule for rules in groups for rule in rules if "6h" in rule["expr"]])
    rules = yaml.safe_load(text.replace("6h", "6s").replace("15m", "0s"))
    return {"groups": [{"name": "hurried", "rules": rules}]}


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Watched]:
    with Watched() as evaluator:
        yield evaluator


@pytest.fixture(scope="module")
def replicas() -> list[Metrics]:
    return [replica(1), replica(2)]


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, replicas: list[Metrics], evaluator: Watched
) -> Iterator[Prometheus]:
    """Scraped two replicas before they counted anything, and after."""
    folder = tmp_path_factory.mktemp("prometheus")
    quick = folder / "hurried.yml"
    quick.write_text(yaml.safe_dump(hurried()))
    first, second = (MetricsPort(metrics.registry, port=0) for metrics in replicas)
    with closing(first), closing(second):
        ports = [first.port, second.port]
        with Prometheus(
            ports, folder, monitors=[evaluator.port], rules=[RULES, quick], interval="1s"
        ) as prometheus:
            for metrics, correct in zip(replicas, (IMAGES, IMAGES // 2), strict=True):
                serve(metrics, correct)
            # The more samples, the less does `increase` extrapolate.
            scraped = "min(count_over_time(corolla_ready[1h]))"
            until(lambda: (value(prometheus.query(scraped)) or 0) >= 8, every_s=0.5)
            prometheus.freeze(lambda: value(prometheus.query("sum(corolla_feedback_total)")) == 4 * IMAGES)
            yield prometheus


def value(found: list[tuple[dict[str, str], float]], **labels: str) -> float | None:
    """The one value that has these labels; None where none has."""
    values = [value for named, value in found if labels.items() <= named.items()]
    assert len(values) <= 1, found
    return values[0] if values else None


def named(title: str) -> str:
    """The query whose title begins like this."""
    (promql,) = (promql for name, promql in (QUERIES | ABSENT).items() if name.startswith(title))
    return promql


@pytest.mark.parametrize("promql", shown(PAGES))
def test_a_documented_query_finds_something_over_two_replicas(prometheus: Prometheus, promql: str) -> None:
    assert prometheus.query(promql)


def promtool(*arguments: str | Path) -> None:
    """Fails with what promtool says against its arguments."""
    command = [tool("promtool"), *arguments]
    # It collects garbage for a third of its time otherwise.
    environment = os.environ | {"GOGC": "400"}
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml"])
def test_prometheus_reads_the_configuration_that_we_ship(name: str) -> None:
    promtool("check", "config", RULES.with_name(name))


def test_the_alerts_do_in_every_scenario_what_they_should() -> None:
    promtool("test", "rules", RULES.with_name("rules_test.yml"))


def test_every_query_is_among_those_that_run() -> None:
    assert {promql.strip() for promql in (QUERIES | ABSENT).values()} <= set(shown(PAGES))


def test_the_expressions_of_all_rules_can_be_evaluated(prometheus: Prometheus) -> None:
    for expression in rules():
        prometheus.query(expression)


def chosen(query: str) -> str:
    """The query of a panel or of a variable as Grafana asks it once all is chosen."""
    values = {
        "job": "corolla",
        "route": "digits/best",
        "domain": ".*",
        "window": "1h",
        "__rate_interval": "1h",
    }
    return re.sub(r"\$(\w+)", lambda name: values.get(name[1], name[0]), query)


def drawn() -> dict[str, str]:
    """The queries of the dashboard's panels, as Grafana reads them, by title and letter."""
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    return {
        f"{panel['title']} {target['refId']}": chosen(target["expr"])
        for panel in panels
        for target in panel.get("targets", ())
    }


@pytest.mark.parametrize("panel", drawn())
def test_every_query_of_the_dashboard_finds_numbers(prometheus: Prometheus, panel: str) -> None:
    found = prometheus.query(drawn()[panel])
    assert [number for _, number in found if not math.isnan(number)]


def test_promtool_finds_nothing_against_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": promql} for number, promql in enumerate(drawn().values())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", file)


def test_what_can_be_chosen_in_the_dashboard_exists(prometheus: Prometheus) -> None:
    variables = json.loads(dashboard.FILE.read_text())["templating"]["list"]
    offered = {}
    for variable in variables:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.*), (\w+)\)", chosen(variable["query"]))
            assert query is not None
            offered[variable["name"]] = {labels[query[2]] for labels, _ in prometheus.query(query[1])}
    assert offered["job"] == {"corolla"}
    assert {"digits/best", "digits/late"} <= offered["route"]
    assert {"photo", "unset"} <= offered["domain"]


def firing(prometheus: Prometheus, name: str, severity: str) -> bool:
    """Whether an alert about the route in the domain is firing now."""
    labels = {"alertname": name, "severity": severity} | HERE
    return any(labels.items() <= alert.items() for alert in prometheus.alerts())


def test_an_alarm_of_the_evaluator_is_an_alert_until_it_is_taken_back(
    prometheus: Prometheus, evaluator: Watched
) -> None:
    def fires() -> bool:
        return firing(prometheus, "CorollaShiftAlarm", "ticket")

    assert not fires()
    evaluator.alarms = (ALARM,)
    until(fires, every_s=0.5)
    evaluator.alarms = ()
    until(lambda: not fires(), every_s=0.5)


def test_labels_page_while_they_say_that_the_answers_are_wrong(
    prometheus: Prometheus, replicas: list[Metrics]
) -> None:
    """The reference of one replica says a quarter of the answers are right; what is lowest counts."""

    def fires_after(correct: bool) -> bool:
        for number in range(100):
            answer(replicas[0], "digits/best", number, correct=correct)
        return firing(prometheus, "HurriedAccuracyLow", "page")

    until(lambda: fires_after(False), every_s=0.5)
    until(lambda: not fires_after(True), every_s=0.5)


@pytest.mark.parametrize(
    ("title", "labels", "right"),
    [
        ("Accuracy of labelled", HERE, 0.75),
        ("Accuracy of each member", ROUTE | {"member": "lora"}, 0.75),
        ("Accuracy of each member", ROUTE | {"member": "ssf"}, 1),
        ("Mean confidence", HERE, 0.6),
        ("How often two members", HERE, 0.5),
        ("Accuracy that each method", HERE | {"method": "confidence"}, 0.625),
        ("Accuracy that each method", HERE | {"method": "atc_mc"}, 0.5),
        ("Standard error", HERE, 0.125 / (2 * IMAGES) ** 0.5),
        ("How many inputs", HERE, 0.5),
        ("How often a route", HERE, 0.5),
        ("How often a member", HERE | {"member": "lora"}, 0),
        ("How often a member", HERE | {"member": "ssf"}, 0.5),
        ("Members that a cascade", HERE, 1.5),
        ("How often a cascade", HERE, 0.75),
        ("Cascades whose thresholds", ROUTE, 1),
        ("The five classes", ROUTE | {"class": "zero"}, 0),
        ("Members whose version", ROUTE | {"member": "lora"}, 2),
        ("Members whose version", ROUTE | {"member": "ssf"}, None),
        ("Named routes of which nothing", {"route": "digits/idle"}, 0),
        ("Named routes of which nothing", ROUTE, None),
        ("Named routes that replicas", ROUTE, 2),
        ("Confidence above or below", HERE, 0.6 - 0.775),
        ("Replicas that do not", {}, 0),
        ("Named routes without", {"route": "digits/idle"}, 4),
        ("Named routes without", ROUTE, None),
    ],
)
def test_a_query_has_the_right_value_over_two_replicas(
    prometheus: Prometheus, title: str, labels: dict[str, str], right: float | None
) -> None:
    found = prometheus.query(named(title))
    # `increase` extrapolates a little, and not by the same share for each replica.
    assert value(found, **labels) == (right if right is None else pytest.approx(right, rel=0.15))


def test_labels_join_with_the_version_of_each_replica(prometheus: Prometheus) -> None:
    promql = named("Labels of each member")
    found = prometheus.query(promql)
    one = value(found, **ROUTE, member="lora", version="lora:1", outcome="correct")
    two = value(found, **ROUTE, member="lora", version="lora:2", outcome="correct")
    assert one is not None
    assert two is not None
    assert one / two == pytest.approx(2, rel=0.3)
    with pytest.raises(AssertionError, match="many-to-many"):
        prometheus.query(promql.replace("job, instance, ", ""))


def test_images_of_a_series_that_appeared_with_them_can_be_counted(prometheus: Prometheus) -> None:
    found = prometheus.query(named("Images of an hour"))
    for route in ("digits/best", "digits/late"):
        count = value(found, route=route, domain="photo")
        assert count is not None
        assert 2 * IMAGES <= round(count) <= 3 * IMAGES
    # It has no sample at zero, so that `increase` alone does not see the first images.
    first = prometheus.query('min(min_over_time(corolla_predictions_total{route="digits/late"}[1h]))')
    assert value(first) != 0


def test_the_first_of_something_rare_is_seen_though_its_series_appears_with_it(
    prometheus: Prometheus,
) -> None:
    found = prometheus.query(named("An alert on something rare"))
    assert [(labels["route"], labels["member"], count) for labels, count in found] == [
        ("digits/late", "lora", 1)
    ] * 2


def test_zero_can_stand_for_a_series_that_does_not_exist(prometheus: Prometheus) -> None:
    promql = named("0 instead of nothing")
    assert value(prometheus.query(promql)) != 0
    assert value(prometheus.query(promql.replace("digits/best", "digits/none"))) == 0
