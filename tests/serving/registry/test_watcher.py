"""The watcher over a real store, loading into a list."""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_store.routes.text import parse_route
from petl_vit.errors import CorollaError, Corrupt
from serving.registry.catalog import Catalog, Plan
from serving.registry.changes import Changes
from serving.registry.watcher import Watcher
from tests.serving.world import World, until


class Watched:
    """A catalog that is watched, and what was loaded and announced."""

    def __init__(self, world: World, pool: ThreadPoolExecutor, stall_s: float = 60) -> None:
        self.catalog = Catalog(world.store, world.backbone.digest)
        self.loaded: list[str] = []
        self.announced: list[tuple[str | None, str]] = []
        self.compared: list[bool] = []
        self.damaged: set[str] = set()
        self.watcher = Watcher(
            self.catalog,
            load=self._load,
            announce=self._announce,
            changes=Changes(world.store),
            compare=self.compared.append,
            every_s=0.01,
            stall_s=stall_s,
            pool=pool,
        )

    def _load(self, plan: Plan) -> None:
        for term in plan.resolved.terms():
            if term.full_name in self.damaged:
                raise Corrupt(f"adapter {term.full_name} cannot be loaded")
            self.loaded.append(term.full_name)

    def _announce(self, plan: Plan) -> None:
        self.announced.append((plan.named, self.resolved(str(plan.named).rpartition("/")[2])))

    def resolved(self, text: str) -> str:
        return str(self.catalog.plan("shapes", parse_route(text), extrapolate=False).resolved)


@pytest.fixture
def watched(own_world: World) -> Iterator[Watched]:
    with ThreadPoolExecutor(1) as pool:
        yield Watched(own_world, pool)


@pytest.fixture
def impatient(own_world: World) -> Iterator[Watched]:
    """Of a server that may stall for five seconds."""
    with ThreadPoolExecutor(1) as pool:
        yield Watched(own_world, pool, stall_s=5)


async def test_it_loads_what_changed_and_announces_it_once_requests_see_it(
    watched: Watched, own_world: World
) -> None:
    own_world.put_route("best", "bitfit")
    watching = asyncio.create_task(watched.watcher.run())
    await asyncio.to_thread(until, lambda: bool(watched.announced))
    watching.cancel()

    assert watched.loaded == ["shapes/bitfit:1"]
    assert watched.announced == [("shapes/best", "bitfit:1")]


def test_what_did_not_change_is_neither_loaded_nor_announced(watched: Watched, own_world: World) -> None:
    own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
    watched.watcher.follow()

    assert watched.resolved("lora@prod") == "lora:2"
    assert (watched.loaded, watched.announced) == ([], [])


def test_a_route_that_cannot_be_loaded_is_followed_and_said(
    watched: Watched, own_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    watched.damaged.add("shapes/bitfit:1")
    own_world.put_route("best", "bitfit")
    watched.watcher.follow()

    assert watched.resolved("best") == "bitfit:1"
    assert "route shapes/best is not loaded: adapter shapes/bitfit:1 cannot be loaded" in caplog.text


def test_a_reload_loads_and_announces_too(watched: Watched, own_world: World) -> None:
    own_world.put_route("best", "bitfit")

    assert [change.name for change in watched.watcher.reload()] == ["shapes/best"]
    assert watched.announced == [("shapes/best", "bitfit:1")]


def test_references_are_looked_for_every_time_and_it_says_whether_a_route_is_answered_otherwise(
    watched: Watched, own_world: World
) -> None:
    watched.watcher.follow()
    own_world.put_route("best", "bitfit")
    watched.watcher.follow()
    assert watched.compared == [False, True]


def test_a_lost_store_is_said_once_and_its_return_too(
    watched: Watched, own_world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched.resolved("lora@prod") == "lora:1"
    caplog.set_level(logging.INFO, "serving.registry.watcher")
    with monkeypatch.context() as patch:

        def lost(*_: object) -> None:
            raise CorollaError("the store cannot be read")

        patch.setattr(own_world.store.place, "stamps", lost)
        for _ in range(3):
            watched.watcher.follow()
        assert watched.resolved("lora@prod") == "lora:1"
    own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
    for _ in range(2):
        watched.watcher.follow()

    said = [record.getMessage() for record in caplog.records]
    assert said == ["names stay as they were: the store cannot be read", "the store answers again"]
    assert watched.resolved("lora@prod") == "lora:2"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("serving.registry.watcher.time", clock)
    return clock


def test_a_store_that_hangs_has_not_answered_although_every_attempt_ends_in_an_error(
    watched: Watched, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    takes = 60.0

    def lost(*_: object) -> None:
        clock.now += takes
        waited.append(watched.watcher.waiting_s)
        raise CorollaError("the store cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(watched.catalog, "refresh", lost)
        for _ in range(2):
            watched.watcher.follow()
            clock.now += 1
            waited.append(watched.watcher.waiting_s)
        assert waited == [60, 61, 121, 122]

        takes = 0.5
        watched.watcher.follow()
        assert watched.watcher.waiting_s == 0, "an error that comes at once is an answer"

        takes = 60.0
        watched.watcher.follow()
        assert watched.watcher.waiting_s == 60
    watched.watcher.follow()
    assert watched.watcher.waiting_s == 0


def test_an_error_that_comes_later_than_a_server_may_stall_is_no_answer(
    impatient: Watched, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        clock.now += 6
        raise CorollaError("the store cannot be read")

    monkeypatch.setattr(impatient.catalog, "refresh", lost)
    impatient.watcher.follow()

    assert impatient.watcher.waiting_s == 6, "it was not ready after 5 s and would be ready again now"


def test_adapters_that_a_store_does_not_give_are_waited_for_since_the_first(
    watched: Watched, own_world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def hang(plan: Plan) -> None:
        clock.now += 60
        waited.append(watched.watcher.waiting_s)
        raise CorollaError(f"{plan.named} cannot be read")

    monkeypatch.setattr(watched.watcher, "_load", hang)
    own_world.put_route("best", "bitfit")
    own_world.put_route("other", "bitfit")
    watched.watcher.follow()
    assert waited == [60, 120]
    assert watched.watcher.waiting_s == 0, "names could be read"


async def test_a_fault_of_ours_does_not_end_the_watch(
    watched: Watched, own_world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(watched.catalog, "refresh", lambda warm: 1 / 0)
        watching = asyncio.create_task(watched.watcher.run())
        await asyncio.to_thread(until, lambda: "division by zero" in caplog.text)
    own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
    await asyncio.to_thread(until, lambda: watched.resolved("lora@prod") == "lora:2")
    assert not watching.done()
    watching.cancel()
