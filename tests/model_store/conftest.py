from pathlib import Path

import pytest

from model_store.store import Store
from tests.model_store.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Store.open(str(tmp_path / "store")), tmp_path / "store")
