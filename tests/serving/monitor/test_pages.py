"""Pages of a port: who sees which look."""

import time
from collections.abc import Callable

from serving.metrics.port import Answer
from serving.monitor.pages import StatusPages
from serving.monitor.status import Status
from tests.serving.monitor.statuses import full, status


class Looks:
    """An evaluator whose looks are counted, at a time that the test sets."""

    def __init__(self) -> None:
        self.now, self.number = 100.0, 0
        self.work: Callable[[], object] = lambda: None
        self.pages = StatusPages(self.look, fresh_s=5.0, clock=lambda: self.now).pages

    def look(self) -> Status:
        self.number += 1
        self.work()
        return status(source=f"look {self.number}")

    def shown(self, path: str) -> str:
        return self.pages[path]().body.decode()


def test_readers_within_seconds_see_one_look_and_later_ones_the_next() -> None:
    looks = Looks()
    assert "look 1" in looks.shown("/")
    looks.now += 4.9
    assert '"source":"look 1"' in looks.shown("/status.json")
    looks.now += 0.1
    assert "look 2" in looks.shown("/")
    assert looks.number == 2


def test_a_look_that_costs_much_is_shown_for_longer() -> None:
    looks = Looks()
    looks.work = lambda: until_it_computed(0.1)
    looks.shown("/")
    looks.now += 1.9
    assert "look 1" in looks.shown("/")
    looks.now += 100
    assert "look 2" in looks.shown("/")


def until_it_computed(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_programs_read_the_status_whole() -> None:
    answer: Answer = StatusPages(full).pages["/status.json"]()
    assert dict(answer.headers)["Content-Type"] == "application/json"
    assert Status.model_validate_json(answer.body) == full()
