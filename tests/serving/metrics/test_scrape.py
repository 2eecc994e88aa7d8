"""What Prometheus reads."""

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from petl_vit.errors import InvalidInput
from serving.metrics.definitions import DEFINITIONS
from serving.metrics.events import Metrics


@pytest.fixture
def metrics() -> Metrics:
    """Of a server that answered one image by an ensemble."""
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
    return metrics


@pytest.fixture
def address(metrics: Metrics) -> Iterator[str]:
    server, thread = metrics.serve(0)
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_scrape_shows_every_definition_once_and_no_creation_times(metrics: Metrics, address: str) -> None:
    with urllib.request.urlopen(address, timeout=60) as answer:
        text = answer.read().decode()

    assert [d.name for d in DEFINITIONS if text.count(f"# TYPE {d.name} {d.kind}\n") != 1] == []
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text


def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    metrics.set_backbone(digest="abc", architecture="vit", size=1)
    text = generate_latest(metrics.registry)

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_a_port_in_use_is_the_users_to_change(metrics: Metrics, address: str) -> None:
    port = int(address.split(":")[2].split("/")[0])
    with pytest.raises(InvalidInput, match="cannot listen on"):
        metrics.serve(port)
