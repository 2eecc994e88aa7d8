"""What a process says of itself on its port."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.events import Metrics
from serving.monitor.own import OwnStatus
from tests.serving.metrics.counting import predict


class NoReferences:
    """A store without references."""

    def stamps(self) -> dict[tuple[str, str], object]:
        return {}

    def get(self, route: str, data: str) -> None:
        return None


class Process:
    """The metrics of a process, and what it says; `reason` is why it does not serve."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.metrics: Metrics = Metrics(CollectorRegistry())
        self.status = OwnStatus(self.metrics.registry, unready=lambda: self.reason)

    def said(self) -> Any:
        return json.loads(self.status.pages["/status.json"]().body)


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.status.close()


def test_before_it_starts_the_page_says_why_there_are_no_numbers(process: Process) -> None:
    process.reason = "starting"
    said = process.said()
    assert said["problems"] == ["this server does not take requests: starting"]
    assert said["routes"] == []


def test_then_it_shows_what_was_counted(process: Process) -> None:
    predict(process.metrics)
    predict(process.metrics)
    process.status.start(NoReferences())
    said = process.said()
    assert said["source"] == "this server"
    assert said["problems"] == []
    busy = [one for route in said["routes"] for one in route["domains"] if one["images"]]
    assert [one["images"] for one in busy] == [2]
    assert busy[0]["confidence"] == pytest.approx(0.87)
