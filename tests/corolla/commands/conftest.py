"""Stores for the commands: of two tiny adapters, for names; empty or of one backbone, for training."""

import shutil
from pathlib import Path

import pytest

from corolla import command
from model_store.store import Store
from tests.corolla.shell import QUICK, Shell
from tests.model_store.world import World
from tests.training.conftest import imported


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


@pytest.fixture
def empty(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("COROLLA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COROLLA_RUNS", str(tmp_path / "runs"))
    return Shell(tmp_path, capsys)


@pytest.fixture
def shell(empty: Shell) -> Shell:
    imported(Store.open(str(empty.folder / "store")))
    return empty


@pytest.fixture(scope="session")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `digits/lora:1`, trained on 60 digits."""
    folder = tmp_path_factory.mktemp("trained")
    imported(Store.open(str(folder / "store")))
    places = ["--store", str(folder / "store"), "--runs", str(folder / "runs")]
    digits = ["--data", "digits", "--task", "digits", "--limit", "60"]
    assert command.run(["train", "lora", *digits, *QUICK, *places]) == 0
    return folder / "store"


@pytest.fixture
def trained(empty: Shell, trained_store: Path) -> Shell:
    """Over a copy of it."""
    shutil.copytree(trained_store, empty.folder / "store")
    return empty
