from collections.abc import AsyncIterator

import pytest

from tests.serving.engine.batcher.batches import World, world_of


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of() as made:
        yield made


@pytest.fixture
async def wide() -> AsyncIterator[World]:
    """With a long queue."""
    async with world_of(max_queue_rows=1000, max_queue_bytes=10**6) as made:
        yield made
