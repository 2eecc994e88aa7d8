from collections.abc import AsyncIterator

import pytest

from tests.serving.answer.classifier.parts import Parts, parts_of
from tests.serving.world import (
    World,
)


@pytest.fixture
async def parts(world: World) -> AsyncIterator[Parts]:
    async with parts_of(world) as made:
        yield made
