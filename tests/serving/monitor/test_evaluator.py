"""From readings to a status, over servers in memory."""

import json
from collections.abc import Mapping

import pytest
from pydantic import JsonValue

from petl_vit.errors import Corrupt, InvalidInput
from serving.monitor.evaluator import Evaluator, EvaluatorSettings
from serving.monitor.look import Judgement, Look
from serving.monitor.samples import Place
from serving.monitor.status import Alarm, DomainStatus, RouteStatus, Status
from tests.serving.monitor.world import DOMAIN, ROUTE, Server, Servers, values

MEANS = {"confidence": 0.8, "atc_mc": 0.82, "atc_ne": 0.84}


class World:
    """An evaluator over one or more servers; time passes between steps."""

    def __init__(self, *servers: Server, window_s: float = 600.0, step_s: float = 30.0) -> None:
        self.source, self.step_s = Servers(*servers or (Server(),)), step_s
        self.server = self.source.servers[0]
        self.settings = EvaluatorSettings(window_s=window_s, label_window_s=4 * window_s, every_s=step_s)
        self.evaluator = Evaluator(self.source, self.settings)

    def step(self, after_s: float | None = None) -> Status:
        self.source.now += self.step_s if after_s is None else after_s
        return self.evaluator.step()


def place(status: Status) -> tuple[RouteStatus, DomainStatus]:
    (route,) = status.routes
    (domain,) = route.domains
    return route, domain


def test_a_route_with_a_reference_has_estimates_a_headline_and_measurements() -> None:
    world = World()
    world.server.compare_with(values())
    world.server.predict(1000, means=MEANS)
    world.server.label(40, 10)

    route, domain = place(world.step())

    assert route.problem == ""
    assert route.reference is not None
    assert (domain.domain, domain.images, domain.images_in_window) == (DOMAIN, 1000, 1000)
    assert [one.method for one in domain.estimates] == ["atc_mc", "atc_ne", "confidence", "doc"]
    assert domain.headline is not None
    assert domain.headline.value == pytest.approx(0.81)
    assert domain.measured is not None
    assert domain.measured.labels == 50


def test_without_a_reference_there_are_raw_signals_alone_and_the_remedy() -> None:
    world = World()
    world.server.predict(1000, means=MEANS)
    world.server.label(40, 10)

    route, domain = place(world.step())

    assert route.problem == "no reference; measure one: corolla routes reference live --task digits"
    assert (domain.estimates, domain.headline, domain.confidence) == ((), None, pytest.approx(0.8))
    assert domain.measured is not None


def test_routes_without_a_name_are_not_asked_for_a_reference() -> None:
    world = World()
    world.server.predict(10, route="adhoc")

    assert place(world.step())[0].problem == "routes without a name have no reference"


def test_the_window_forgets_and_the_total_does_not() -> None:
    world = World(window_s=600)
    world.server.predict(100)
    world.step()
    for _ in range(25):
        world.server.predict(10)
        _, domain = place(world.step())

    assert domain.images == 350
    assert 190 <= domain.images_in_window <= 210


def test_a_source_that_is_down_is_said_and_nothing_is_lost_when_it_is_back() -> None:
    world = World()
    world.server.predict(100)
    world.step()
    world.source.down = "http://prometheus:9090 does not answer: connection refused"
    world.server.predict(50)
    for _ in range(3):
        status = world.step()
        assert status.problems == (world.source.down,)
        assert place(status)[1].images == 100
    assert status.at == 1030

    world.source.down = ""
    status = world.step()

    assert status.problems == ()
    assert place(status)[1].images == 150


def test_a_long_gap_is_said_while_it_is_in_the_window() -> None:
    world = World(window_s=3600)
    world.server.predict(100)
    world.step()
    world.server.predict(900)

    said = [world.step(after_s=seconds).problems for seconds in (1200.0, 30.0, 3700.0, 30.0, 3700.0)]

    assert [len(problems) for problems in said] == [1, 1, 1, 1, 1]
    assert said[0] == said[1] != said[2]
    assert said[0][0].startswith("nothing was read from 1970-01-01 00:17:10 UTC to 1970-01-01 00:37:10 UTC")


def test_problems_of_a_reading_are_passed_on() -> None:
    world = World()
    world.server.predict(1)

    status = world.evaluator.take(world.source.reading(["Prometheus cannot scrape one"]))

    assert status.problems == ("Prometheus cannot scrape one",)


def test_a_clock_that_runs_back_a_little_is_said_and_time_stands() -> None:
    world = World()
    world.server.predict(100)
    before = world.step().at
    world.server.predict(10)

    status = world.step(after_s=-60.0)

    assert status.at == before
    assert status.problems == ("the source's clock went back by 60 s",)
    assert place(status)[1].images_in_window == 110


def test_a_clock_that_runs_back_far_starts_the_windows_anew() -> None:
    world = World(window_s=600)
    world.server.predict(100)
    before = world.step(after_s=1e9).at
    world.server.predict(10)

    status = world.step(after_s=-1e6)

    assert status.at == before - 1e6
    assert "the windows start anew" in status.problems[0]
    assert (place(status)[1].images, place(status)[1].images_in_window) == (110, 10)


def test_a_roll_out_pauses_estimates_and_then_the_new_versions_start_from_nothing() -> None:
    one, two = Server("one"), Server("two")
    world = World(one, two)
    for server in (one, two):
        server.compare_with(values())
        server.predict(500, means=MEANS)
    assert place(world.step())[1].images == 1000

    one.compare_with(values(digest="e" * 12))
    one.predict(100, means=MEANS)
    route, domain = place(world.step())
    assert "rolled out" in route.problem
    assert route.reference is not None
    assert route.reference.stale
    assert (domain.estimates, domain.images_in_window) == ((), 1100)

    two.compare_with(values(digest="e" * 12))
    two.predict(100, means=MEANS)
    assert world.step().routes[0].domains == ()
    for server in (one, two):
        server.predict(200, means=MEANS)
    route, domain = place(world.step())
    assert route.problem == ""
    assert (domain.images, len(domain.estimates)) == (400, 4)


def test_a_reference_that_arrives_later_uses_what_was_counted_before() -> None:
    world = World()
    world.server.predict(300, means=MEANS)
    world.step()
    world.server.compare_with(values())

    assert place(world.step())[1].images_in_window == 300


def test_points_are_the_past_and_at_most_120() -> None:
    world = World(window_s=600)
    for _ in range(130):
        world.server.predict(10, means=MEANS)
        world.server.label(1, 0)
        _, domain = place(world.step())

    points = domain.history
    assert len(points) == 120
    assert {point.images for point in points} == {10}
    assert [point.at for point in points] == sorted({point.at for point in points})
    assert points[-1].measured == 1
    assert points[-1].confidence == pytest.approx(0.8)


class Counting:
    """Alarms that count images, as a stand-in; raised from 500 on."""

    def __init__(self) -> None:
        self.images, self.looks = 0.0, 0

    def step(self, look: Look) -> Mapping[Place, Judgement]:
        self.looks += 1
        self.images += look.increase.total("corolla_predictions_total", ROUTE, DOMAIN)
        raised = self.images >= 500
        alarm = Alarm(
            route=ROUTE,
            domain=DOMAIN,
            kind="shift",
            indicator="low_score",
            e_value=3.0,
            threshold=2.3,
            images=500,
            first_seen=look.at,
        )
        judgement = Judgement(
            alarms=(alarm,) if raised else (), evidence={"low_score": self.images}, threshold=2.3
        )
        return {(ROUTE, DOMAIN): judgement}

    def state(self) -> JsonValue:
        return self.images

    def restore(self, state: JsonValue) -> None:
        assert isinstance(state, float)
        self.images = state


def test_alarms_see_every_increase_once_also_over_a_restart_of_the_evaluator() -> None:
    world = World()
    world.evaluator = Evaluator(world.source, world.settings, alarms=Counting())
    world.server.predict(300)
    world.step()
    state = json.loads(json.dumps(world.evaluator.state()))

    world.server.predict(250)
    world.evaluator = Evaluator(world.source, world.settings, alarms=Counting())
    world.evaluator.restore(state)
    _, domain = place(world.step())

    assert domain.evidence == {"low_score": 550}
    assert [alarm.kind for alarm in domain.alarms] == ["shift"]
    assert world.evaluator.status.alarms == domain.alarms


def test_an_evaluator_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    worlds = [World(), World()]
    for world in worlds:
        world.server.compare_with(values())
    for round_ in range(12):
        for world in worlds:
            world.server.predict(100 + round_, means=MEANS)
            world.server.label(3, 1)
            status = world.step()
        if round_ % 4 == 0:
            state = json.loads(json.dumps(worlds[1].evaluator.state()))
            worlds[1].evaluator = Evaluator(worlds[1].source, worlds[1].settings)
            worlds[1].evaluator.restore(state)

    assert status == worlds[0].evaluator.status


def test_a_state_of_another_source_or_of_something_else_is_refused() -> None:
    world = World()
    world.step()
    state = json.loads(json.dumps(world.evaluator.state()))
    assert isinstance(state, dict)

    with pytest.raises(InvalidInput, match="it is of another"):
        world.evaluator.restore(state | {"source": "another"})
    with pytest.raises(InvalidInput, match="it has format 2, and this version reads 1"):
        world.evaluator.restore(state | {"format": 2})
    for damaged in ({}, [], {"source": "servers", "format": 1}, state | {"window": [1]}):
        with pytest.raises(Corrupt, match="not the state of an evaluator"):
            world.evaluator.restore(damaged)


def test_the_past_of_a_source_is_taken_in_order_with_its_gaps() -> None:
    world = World(window_s=3600)
    world.source.origin = 1.0
    for at in (100.0, 400.0, 1900.0, 2200.0):
        world.source.now = at
        world.server.predict(10, means=MEANS)
        world.source.past.append(world.source.reading())
    world.evaluator = Evaluator(world.source, world.settings)

    world.source.down = "not yet"
    assert world.evaluator.step().problems == ("not yet",)
    world.source.down = ""
    status = world.step(after_s=200.0)

    assert place(status)[1].images == 40
    assert [point.images for point in place(status)[1].history] == [10, 10, 10, 10, 0]
    assert any("from 1970-01-01 00:06:40 UTC to 1970-01-01 00:31:40 UTC" in one for one in status.problems)


def test_nothing_read_yet_is_a_status_too() -> None:
    status = World().evaluator.status

    assert Status.model_validate_json(status.model_dump_json()) == status
    assert (status.at, status.routes) == (0.0, ())


def test_a_server_that_started_while_the_evaluator_was_away_is_counted_from_its_start() -> None:
    old, new = Server("old", start=1.0), Server("new", start=1100.0)
    world = World(old)
    world.source.origin = 500.0
    world.evaluator = Evaluator(world.source, world.settings)
    old.predict(100)
    world.step()
    old.predict(20)
    world.step()
    state = json.loads(json.dumps(world.evaluator.state()))

    new.predict(7)
    world.source.servers.append(new)
    world.source.origin = 5000.0
    world.evaluator = Evaluator(world.source, world.settings)
    world.evaluator.restore(state)

    assert place(world.step(after_s=5000.0))[1].images == 20 + 7
