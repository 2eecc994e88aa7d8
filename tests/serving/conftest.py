import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import logs
from tests.serving.certificates import Certificates
from tests.serving.world import Running, World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store that no test changes."""
    return World.make(tmp_path_factory.mktemp("world") / "store")


@pytest.fixture
def own_world(world: World, tmp_path: Path) -> World:
    """A copy of it that the test may change."""
    shutil.copytree(world.folder, tmp_path / "store")
    return World(tmp_path / "store")


@pytest.fixture(scope="session")
def running(world: World) -> Iterator[Running]:
    """A server over `world`, in fp32, that no test stops or slows."""
    with Running(world.settings()) as running:
        yield running


@pytest.fixture(scope="session")
def running_bf16(world: World) -> Iterator[Running]:
    """The same in bf16, emulated where the hardware does not have it."""
    with Running(world.settings(precision="bf16")) as running:
        yield running


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    made.issue("server")
    made.issue("client")
    return made


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the log says, in JSON with every call, while the test lasts."""
    root, before = logging.getLogger(), logging.getLogger().level
    monkeypatch.setattr(root, "handlers", [])
    stream = io.StringIO()
    logs.set_up("json", "all", stream)
    yield stream
    logs.set_up("text", "off")
    logging.captureWarnings(False)
    root.setLevel(before)
