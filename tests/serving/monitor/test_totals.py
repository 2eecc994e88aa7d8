"""Counters of servers that restart, come, go and are not always seen."""

import json

import pytest

from serving.monitor.samples import Counts, Reading
from serving.monitor.totals import Totals
from tests.serving.monitor.world import DOMAIN, ROUTE, Server, Servers, sample

PREDICTIONS = "corolla_predictions_total"


class Seen:
    """Totals over servers, and what they added up to."""

    def __init__(self, *servers: Server, origin: float = 0.0) -> None:
        self.source, self.totals, self.sum = Servers(*servers), Totals(origin), Counts()

    def look(self) -> float:
        """The images since the look before."""
        increase, self.problems = self.totals.step(self.source.reading())
        self.sum.merge(increase)
        return increase.total(PREDICTIONS, ROUTE, DOMAIN)

    @property
    def images(self) -> float:
        return self.sum.total(PREDICTIONS, ROUTE, DOMAIN)


def test_a_server_is_counted_from_its_start_and_then_by_what_it_adds() -> None:
    server = Server()
    server.predict(5)
    seen = Seen(server)

    assert seen.look() == 5
    assert seen.look() == 0
    server.predict(7)
    assert seen.look() == 7


def test_a_restart_is_counted_from_zero_even_where_the_counter_has_passed_its_old_value() -> None:
    server = Server(start=1.0)
    server.predict(5)
    seen = Seen(server)
    seen.look()

    server.restart(50.0)
    server.predict(9)

    assert seen.look() == 9


def test_labels_that_a_server_has_again_after_a_restart_are_not_counted_twice() -> None:
    server = Server()
    server.label(8, 2)
    seen = Seen(server)
    seen.look()

    server.restart(50.0)
    server.label(1, 0)
    seen.look()

    assert seen.sum.by("outcome", "corolla_feedback_total", ROUTE, DOMAIN) == {"correct": 9, "incorrect": 2}


def test_labels_that_are_lost_in_a_restart_start_at_zero() -> None:
    server = Server()
    server.label(8, 2)
    seen = Seen(server)
    seen.look()

    server.restart(50.0, keep_labels=False)
    server.label(3, 0)
    seen.look()

    assert seen.sum.total("corolla_feedback_total", ROUTE, DOMAIN) == 13


def test_a_counter_that_fell_restarted_where_no_start_is_told() -> None:
    totals = Totals()

    increases = [
        totals.step(Reading(at=at, samples=(sample(PREDICTIONS, value, route=ROUTE, domain=DOMAIN),)))[
            0
        ].total(PREDICTIONS, ROUTE, DOMAIN)
        for at, value in enumerate([10, 12, 3, 4])
    ]

    assert increases == [10, 2, 3, 1]


def test_replicas_are_added_up_and_one_that_is_away_loses_nothing() -> None:
    one, two = Server("one"), Server("two")
    seen = Seen(one, two)
    for _ in range(3):
        one.predict(1)
        two.predict(10)
        seen.look()
    seen.source.servers = [one]
    two.predict(100)
    seen.look()
    seen.source.servers = [one, two]
    seen.look()

    assert seen.images == 3 + 30 + 100


def test_servers_older_than_the_origin_are_counted_from_their_first_reading() -> None:
    old, new = Server("old", start=10.0), Server("new", start=200.0)
    for server in (old, new):
        server.predict(1000)
    seen = Seen(old, new, origin=100.0)

    assert seen.look() == 1000
    old.predict(3)
    assert seen.look() == 3


@pytest.mark.parametrize("apart", [10.0, 0.3])
def test_processes_that_answer_in_turn_at_one_address_are_not_counted_again_and_again(apart: float) -> None:
    older, newer = Server(start=10.0), Server(start=10.0 + apart)
    older.predict(1000)
    newer.predict(900)
    seen = Seen(older)
    seen.look()
    seen.source.servers = [newer]
    seen.look()
    seen.source.servers = [older]

    assert seen.look() == 0
    assert "several processes answer in turn" in seen.problems[0]


def test_values_that_are_not_finite_are_left_out() -> None:
    totals = Totals()
    for value in (3.0, float("nan"), float("inf"), 5.0):
        read = Reading(at=0.0, samples=(sample(PREDICTIONS, value, route=ROUTE, domain=DOMAIN),))
        increase = totals.step(read)[0].total(PREDICTIONS, ROUTE, DOMAIN)

    assert increase == 2


@pytest.mark.parametrize("restarted", [False, True])
def test_it_goes_on_from_its_state(restarted: bool) -> None:
    server = Server()
    server.predict(5)
    before = Seen(server)
    before.look()
    state = json.loads(json.dumps(before.totals.state()))

    if restarted:
        server.restart(60.0)
    server.predict(2)
    after = Seen(server)
    after.totals.restore(state)

    assert after.look() == 2
