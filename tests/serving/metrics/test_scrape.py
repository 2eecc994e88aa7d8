"""What Prometheus reads."""

import subprocess
import urllib.request
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.definitions import DEFINITIONS
from serving.metrics.events import Metrics
from serving.metrics.port import MetricsPort
from tests.model_store.references import usable_reference
from tests.prometheus import tool


@pytest.fixture
def metrics() -> Metrics:
    """Of a server that answered one image by an ensemble, which has a reference."""
    metrics = Metrics(CollectorRegistry())
    metrics.add_route("all", ("lora", "ssf"))
    metrics.prediction(
        route="all",
        domain="unset",
        predicted=3,
        votes=[3, 5],
        confidence=0.87,
        entropy=0.4,
        mutual_information=0.05,
        agreement=0.5,
    )
    metrics.set_temperature("all", 1.5)
    metrics.set_reference("all", usable_reference("lora", "ssf"))
    return metrics


def scraped(metrics: Metrics, accept: str = "text/plain") -> bytes:
    with closing(MetricsPort(metrics.registry, port=0)) as port:
        asked = urllib.request.Request(f"http://127.0.0.1:{port.port}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return bytes(answer.read())


def test_a_scrape_shows_every_definition_once_and_no_creation_times(metrics: Metrics) -> None:
    text = scraped(metrics).decode()

    assert [d.name for d in DEFINITIONS if text.count(f"# TYPE {d.name} {d.kind}\n") != 1] == []
    assert "_created" not in text
    assert b"_created" not in scraped(metrics, "application/openmetrics-text; version=1.0.0")
    assert "process_resident_memory_bytes" in text


def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    promtool = tool("promtool")
    metrics.set_backbone(digest="abc", architecture="vit", size=1)

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scraped(metrics), capture_output=True, timeout=60, check=False
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
