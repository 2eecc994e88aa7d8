"""A server that asks for signatures answers with what is signed, and says of the rest that it is not."""

from pathlib import Path

import pytest

from model_store.format.signature import SigningKey, create_key
from petl_vit.errors import InvalidInput
from serving.service import Service
from tests.serving.world import Running, World, encoded


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "release.key")
    return tmp_path / "release.key"


def test_an_adapter_that_nobody_vouches_for_is_not_loaded(tmp_path: Path, key: Path) -> None:
    world = World.make(tmp_path / "store")
    lora = world.store.adapters.manifest("shapes", "lora", 1)
    world.store.adapters.sign(lora, SigningKey.read(key))
    with (
        Running(world.settings(trusted_keys=f"{key}.pub")) as running,
        running.client() as client,
    ):
        assert client.classify([encoded()], task="shapes", route="lora:1").results
        with pytest.raises(Exception, match=r"ssf.*nobody who is trusted vouches") as refused:
            client.classify([encoded()], task="shapes", route="lora:1, ssf")
        assert "corolla adapters sign" in str(refused.value)
        world.store.adapters.sign(
            world.store.adapters.manifest("shapes", "ssf", 1), SigningKey.read(key)
        )  # while it runs
        assert client.classify([encoded()], task="shapes", route="lora:1, ssf").results


def test_a_server_does_not_start_without_the_keys_that_it_was_told_of(tmp_path: Path) -> None:
    world = World.make(tmp_path / "store")
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidInput, match="names no key and no digest"):
        Service(world.settings(trusted_keys=str(tmp_path / "empty")))
