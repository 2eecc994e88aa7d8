from collections.abc import Iterator

import pytest

from serving.registry.admin import Admin
from tests.serving.registry.admin.parts import Parts
from tests.serving.world import World


@pytest.fixture
def parts(own_world: World) -> Iterator[Parts]:
    parts = Parts(own_world)
    yield parts
    parts.pool.shutdown()


@pytest.fixture
def admin(parts: Parts) -> Admin:
    return parts.admin
