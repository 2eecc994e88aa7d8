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


def test_a_version_that_only_says_it_has_the_digest_of_one_in_memory_is_not_served(
    tmp_path: Path, key: Path
) -> None:
    world = World.make(tmp_path / "store")
    lora = world.store.adapters.manifest("shapes", "lora", 1)
    world.store.adapters.sign(lora, SigningKey.read(key))
    with Running(world.settings(trusted_keys=f"{key}.pub")) as running, running.client() as client:
        assert client.classify([encoded()], task="shapes", route="lora:1").results
        unsigned = lora.model_copy(update={"version": 99, "temperature": 9.0})
        other = lora.model_copy(update={"version": 98, "config": {**lora.config, "rank": 1}})
        for manifest in (unsigned, other):
            place = tmp_path / f"store/adapters/shapes/lora/{manifest.version}/manifest.json"
            place.parent.mkdir()
            place.write_bytes(manifest.encode())
        with pytest.raises(Exception, match=r"nobody who is trusted vouches for shapes/lora:99"):
            client.classify([encoded()], task="shapes", route="lora:99")
        with pytest.raises(Exception, match=r"lora:98 says it has the digest of lora:1"):
            client.classify([encoded()], task="shapes", route="lora:98")
        assert client.classify([encoded()], task="shapes", route="lora:1").results
