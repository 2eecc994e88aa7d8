from collections.abc import Iterator

import pytest

from serving.client.blocking import Client
from tests.serving.overload.servers import Ours
from tests.serving.world import World


@pytest.fixture
def ours(world: World) -> Iterator[Ours]:
    with Ours(world) as running:
        yield running


@pytest.fixture
def client(ours: Ours) -> Iterator[Client]:
    with ours.client() as client:
        yield client
