"""Stores of two tiny adapters, for the commands that list, show and change names."""

from pathlib import Path

import pytest

from model_store.store import Store
from tests.model_store.world import World


@pytest.fixture
def stored(tmp_path: Path) -> World:
    """A store without adapters."""
    return World(Store.open(str(tmp_path / "store")), tmp_path / "store")


@pytest.fixture
def published(stored: World) -> World:
    """A store with two adapters of the task digits."""
    stored.store.adapters.publish(stored.draft(temperature=1.7), stored.adapter(1.0))
    stored.store.adapters.publish(stored.draft("ssf"), stored.adapter(2.0))
    return stored
