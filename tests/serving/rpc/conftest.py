from typing import Any

import pytest

from tests.serving.world import (
    Running,
)


@pytest.fixture(scope="module")
def client(running: Running) -> Any:
    with running.client() as client:
        yield client
