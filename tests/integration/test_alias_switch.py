"""An alias moves back and forth while clients hammer it: every answer is entirely old or entirely new."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.client.admin import AdminClient
from serving.client.blocking import Client
from tests.serving.world import WAIT_S, Running, World, encoded, until

CLIENTS = 4
SWITCHES = 20
IMAGES = 2


@pytest.fixture(scope="module")
def own_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store whose adapter `x` has two versions that answer differently, and a route over it."""
    world = World.make(tmp_path_factory.mktemp("switch") / "store")
    for seed in (101, 202):
        world.publish("shapes", "lora", seed=seed, name="x")
    world.store.adapters.set_alias("shapes", "x", "prod", 1)
    world.put_route("live", "x@prod, ssf")
    return world


@pytest.fixture(scope="module")
def ours(own_world: World) -> Iterator[Running]:
    with Running(own_world.settings(refresh_s=0.02)) as running:
        yield running


class Hammer:
    """Clients that ask for one route until they are told to stop, each with images of its own."""

    def __init__(self, running: Running, route: str) -> None:
        self._route = route
        self._running = running
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(CLIENTS)]
        self.answers: list[tuple[int, Any]] = []
        self.failures: list[Exception] = []

    def __enter__(self) -> "Hammer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _ask(self, seed: int) -> None:
        with self._running.client() as client:
            while not self._stop.is_set():
                try:
                    self.answers.append((seed, ask(client, self._route, seed)))
                except Exception as error:
                    self.failures.append(error)
                    return


def ask(client: Client, route: str, seed: int) -> Any:
    images = [encoded(seed * IMAGES + i) for i in range(IMAGES)]
    return client.classify(images, route=route, task="shapes", probabilities=True)


def probabilities(response: Any) -> Any:
    return np.array([list(result.probabilities) for result in response.results])


def references(client: Client, texts: tuple[str, str]) -> dict[tuple[str, int], tuple[Any, str]]:
    """Probabilities and the first adapter's digest by resolved route and client."""
    found = {}
    for text in texts:
        for seed in range(CLIENTS):
            response = ask(client, text, seed)
            found[response.route, seed] = (probabilities(response), response.adapters[0].digest)
    first, second = (found[route, 0] for route in dict.fromkeys(route for route, _ in found))
    assert np.abs(first[0] - second[0]).max() > 0.01, "the versions must be told apart"
    return found


def check(hammer: Hammer, expected: dict[tuple[str, int], tuple[Any, str]]) -> None:
    assert hammer.failures == []
    assert {response.route for _, response in hammer.answers} == {route for route, _ in expected}
    for seed, response in hammer.answers:
        values, digest = expected[response.route, seed]
        assert response.adapters[0].digest == digest
        assert f"shapes/{response.route.partition(',')[0]}" == response.adapters[0].name
        np.testing.assert_allclose(probabilities(response), values, atol=1e-5)


@pytest.mark.parametrize(
    ("route", "texts"), [("x@prod", ("x:1", "x:2")), ("live", ("x:1, ssf:1", "x:2, ssf:1"))]
)
def test_every_answer_is_one_version_or_the_other_while_the_server_moves_the_alias(
    ours: Running, route: str, texts: tuple[str, str]
) -> None:
    with ours.client() as client:
        admin, expected = AdminClient(client), references(client, texts)
        with Hammer(ours, route) as hammer:
            for switch in range(SWITCHES):
                version = 2 - switch % 2
                done = admin.set_alias("x", "prod", version, task="shapes", expected=3 - version)
                assert done.previous_version == 3 - version
                assert ask(client, route, 0).adapters[0].name == f"shapes/x:{version}", "visible at once"
    check(hammer, expected)


def test_a_switch_in_the_store_is_followed_under_traffic_without_a_failure(
    ours: Running, own_world: World
) -> None:
    with ours.client() as client:
        expected = references(client, ("x:1", "x:2"))
        with Hammer(ours, "x@prod") as hammer:
            for switch in range(10):
                version = 2 - switch % 2
                own_world.store.adapters.set_alias("shapes", "x", "prod", version)
                seen = len(hammer.answers)
                until(lambda seen=seen, v=version: any(r.route == f"x:{v}" for _, r in hammer.answers[seen:]))
    check(hammer, expected)


def test_an_unload_under_traffic_changes_no_answer(ours: Running) -> None:
    with ours.client() as client:
        admin, expected = AdminClient(client), references(client, ("x:1", "x:2"))
        with Hammer(ours, "x:1") as hammer:
            for _ in range(20):
                assert admin.unload_adapter(admin.load_adapter("shapes/x:1").name).freed_bytes > 0
    expected = {key: value for key, value in expected.items() if key[0] == "x:1"}
    check(hammer, expected)
