"""Every query of a page, a metric's help or a rule runs in a real Prometheus that scrapes two replicas."""

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from docs.queries import ABSENT, QUERIES
from serving.metrics.definitions import DEFINITIONS
from serving.metrics.events import Metrics
from serving.metrics.label_values import Domains
from serving.metrics.port import MetricsPort
from tests.model_store.references import usable_reference
from tests.prometheus import Prometheus, tool
from tests.serving.metrics.counting import label
from tests.serving.world import until

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PROMQL = re.compile(r"\b(?:sum|avg|min|max|count|rate|increase|histogram_quantile|group_left)\b[\w\s,()]*\(")
MEMBERS = ("lora", "ssf")
CLASSES = ("zero", "one", "two")
IMAGES = 8


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
    metrics.invalid_scores("digits/late", "lora")
    for route in ("digits/best", "digits/late"):
        for number in range(IMAGES):
            metrics.request("Classify", "OK", 0.02)
            metrics.prediction(
                route=route,
                domain="photo",
                predicted=1,
                class_name="one",
                votes=[1, number % 2],
                confidence=0.5 if correct == IMAGES else 0.7,
                entropy=0.5,
                mutual_information=0.1,
                agreement=0.5 + number % 2 / 2,
                margin=0.2,
                expected={"confidence": 0.5 + number % 2 / 4, "atc_mc": float(number % 2)},
            )
            distance = 0.5 + number % 2
            metrics.frozen(route=route, domain="photo", override=number % 2 == 0, distance=distance)
            if route == "digits/best":
                whole = number % 2 == 0
                metrics.cascade(
                    route=route, domain="photo", asked=1 + number % 2, as_all=number > 0 if whole else None
                )
            right = {"lora": number < correct, "ssf": True}
            label(metrics, route, "photo", correct=right["lora"], members=right)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scraped two replicas before they counted anything, and after."""
    replicas = [replica(1), replica(2)]
    first, second = (MetricsPort(metrics.registry, port=0) for metrics in replicas)
    with closing(first), closing(second):
        folder = tmp_path_factory.mktemp("prometheus")
        with Prometheus([first.port, second.port], folder) as prometheus:
            for metrics, correct in zip(replicas, (IMAGES, IMAGES // 2), strict=True):
                serve(metrics, correct)
            # The more samples, the less does `increase` extrapolate.
            until(lambda: (value(prometheus.query("min(count_over_time(corolla_ready[1h]))")) or 0) >= 8)
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


def test_prometheus_reads_the_configuration_that_we_ship() -> None:
    config = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    checked = subprocess.run(
        [tool("promtool"), "check", "config", str(config)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_query_is_among_those_that_run() -> None:
    assert {promql.strip() for promql in (QUERIES | ABSENT).values()} <= set(shown(PAGES))


def test_the_expressions_of_all_rules_can_be_evaluated(prometheus: Prometheus) -> None:
    for expression in rules():
        prometheus.query(expression)


ROUTE = {"route": "digits/best"}
HERE = ROUTE | {"domain": "photo"}


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
