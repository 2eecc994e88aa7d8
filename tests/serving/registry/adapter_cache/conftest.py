from collections.abc import Iterator

import pytest

from tests.serving.registry.adapter_cache.parts import Parts
from tests.serving.world import World


@pytest.fixture
def parts(world: World) -> Iterator[Parts]:
    made = Parts(world)
    yield made
    made.cache.close()
