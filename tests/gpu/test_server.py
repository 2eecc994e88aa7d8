"""A server on a CUDA device answers over gRPC as one on a CPU does."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu import BACKENDS, exact
from tests.serving.world import METHODS, Running, World, encoded

pytestmark = pytest.mark.gpu

ROUTES = (*METHODS, "base", "0.3*lora", "0.5*lora + 0.5*ssf", "lora, ssf, 2: convpass", "best")
IMAGES = [encoded(seed) for seed in range(4)]
BOUNDS = {"fp32": 1e-3, "bf16": 3e-2}
"""Of a probability."""


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with exact():
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world") / "store")


def served(world: World, **settings: object) -> NDArray[np.float64]:
    """The probabilities that a server gives each image on each route."""
    with Running(world.settings(**settings)) as running, running.client() as client:
        replies = [client.classify(IMAGES, route=r, task="shapes", probabilities=True) for r in ROUTES]
    assert not any(result.error.code for reply in replies for result in reply.results)
    return np.array([[result.probabilities for result in reply.results] for reply in replies])


@pytest.fixture(scope="module")
def expected(world: World) -> NDArray[np.float64]:
    return served(world, device="cpu", backend="torch", precision="fp32")


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_on_a_gpu_answers_as_one_on_a_cpu(
    world: World, expected: NDArray[np.float64], backend: str, precision: str
) -> None:
    found = served(world, device="cuda", backend=backend, precision=precision)

    assert np.abs(found - expected).max() <= BOUNDS[precision]


def test_by_itself_it_runs_on_a_gpu_in_bf16(world: World, expected: NDArray[np.float64]) -> None:
    found = served(world)

    assert np.abs(found - expected).max() <= BOUNDS["bf16"]
