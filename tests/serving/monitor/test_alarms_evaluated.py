"""Alarms behind an evaluator, which reads servers that restart, fall silent and change adapters."""

import json
from collections.abc import Mapping

import numpy as np

from serving.monitor.alarms import SequentialAlarms
from serving.monitor.evaluator import Evaluator
from serving.monitor.status import Status
from tests.serving.monitor.world import Server, Servers, values

REFERENCE = values(images=5000, rates={"unsure": 0.1, "low_score": 0.1, "disagreement": 0.05})
USUAL = {"confidence": 0.9, "atc_mc": 0.9}
SHIFTED = {"confidence": 0.75, "atc_mc": 0.7}


class World:
    """Two servers, and what evaluates them."""

    def __init__(self) -> None:
        self.servers = [Server("one"), Server("two")]
        self.source = Servers(*self.servers)
        for server in self.servers:
            server.compare_with(REFERENCE)
        self.evaluator = self.new()

    def new(self) -> Evaluator:
        return Evaluator(self.source, alarms=SequentialAlarms())

    def serve(self, images: int, means: Mapping[str, float] = USUAL) -> Status:
        """Both servers answer images, and the evaluator looks."""
        for server in self.servers:
            server.predict(images, means=means, pairs={"a:b": 0.95})
        self.source.now += 30
        self.source.past.append(self.source.reading())
        return self.evaluator.step()


def kinds(status: Status) -> list[str]:
    return [alarm.kind for alarm in status.alarms]


def evidence(status: Status) -> dict[str, float]:
    return status.routes[0].domains[0].evidence


def test_a_shift_on_two_servers_raises_one_alarm_also_when_one_restarts_meanwhile() -> None:
    world = World()
    for _ in range(20):
        status = world.serve(200)
        assert kinds(status) == []
    headline = status.routes[0].domains[0].headline
    assert headline is not None
    assert headline.trusted
    world.servers[0].restart(start=500.0)
    world.servers[0].compare_with(REFERENCE)
    status = world.serve(200)
    assert kinds(status) == []

    rounds = 0
    while not status.alarms:
        status, rounds = world.serve(50, SHIFTED), rounds + 1

    assert kinds(status) == ["shift"]
    assert rounds <= 10
    headline = status.routes[0].domains[0].headline
    assert headline is not None
    assert not headline.trusted
    assert "an alarm says" in headline.why
    assert status.routes[0].domains[0].threshold == status.alarms[0].threshold


def test_a_source_that_is_down_for_a_while_changes_nothing_but_when_the_alarm_is_raised() -> None:
    world = World()
    for _ in range(5):
        world.serve(200)
    world.source.down = "nobody answers"
    silent = world.serve(500, SHIFTED)
    assert silent.problems
    assert not silent.alarms
    world.source.down = ""

    assert kinds(world.serve(0)) == ["shift"]


def test_a_new_evaluator_without_a_state_reads_the_past_and_knows_the_same() -> None:
    world, random = World(), np.random.default_rng(0)
    for _ in range(30):
        status = world.serve(int(random.integers(1, 200)), USUAL | {"atc_mc": 0.87})

    again = world.new()
    again.step()

    assert evidence(again.status) == evidence(status)


def test_a_restart_goes_on_from_the_state_and_raises_what_it_would_have() -> None:
    world = World()
    for _ in range(10):
        world.serve(100)
    state = json.loads(json.dumps(world.evaluator.state()))
    expected = world.serve(100, SHIFTED)

    world.evaluator = world.new()
    world.evaluator.restore(state)

    assert evidence(world.evaluator.step()) == evidence(expected)


def test_while_servers_answer_with_different_adapters_evidence_waits() -> None:
    world = World()
    for _ in range(10):
        before = world.serve(100)
    world.servers[0].compare_with(values(digest="e" * 64, images=5000, rates={"unsure": 0.1}))

    rolling = world.serve(500, SHIFTED)
    assert evidence(rolling) == evidence(before)
    assert not rolling.alarms

    world.servers[1].compare_with(values(digest="e" * 64, images=5000, rates={"unsure": 0.1}))
    world.serve(100, SHIFTED)
    after = world.serve(100)
    assert evidence(after).keys() == {"shift", "unsure"}
    assert not after.alarms
