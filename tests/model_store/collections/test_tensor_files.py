"""Tensors from a cache: verified, shared by what computes the same, and read again where they are damaged."""

from pathlib import Path

import pytest

from model_store.place.cache import Cache
from model_store.place.objects import Objects
from model_store.store import Store
from petl_vit.errors import Corrupt
from tests.model_store.world import World


class Counting(Objects):
    """A place that notes which tensor files are read."""

    reads: list[str]

    def read(self, key: str) -> bytes | None:
        if key.endswith(".safetensors"):
            self.reads.append(key.partition("/")[0])
        return super().read(key)


def counting(folder: Path, cache: Path) -> tuple[Store, list[str]]:
    place = Counting.open(str(folder), Cache(cache, 10**6))
    place.reads = []
    return Store(place), place.reads


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def load(store: Store) -> None:
    store.backbones.load(store.backbones.get())
    store.tasks.load_base_head(store.tasks.get("digits"))
    store.adapters.load(store.adapters.manifest("digits", "lora", 1))


@pytest.fixture
def one(world: World) -> World:
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    return world


def test_tensors_are_read_from_the_store_once(one: World, tmp_path: Path) -> None:
    for expected in (["backbones", "tasks", "adapters"], []):
        store, reads = counting(one.folder, tmp_path / "cache")
        load(store)
        assert reads == expected


def test_a_snapshot_uses_the_cache_too(one: World, tmp_path: Path) -> None:
    store, _ = counting(one.folder, tmp_path / "cache")
    load(store)
    store, reads = counting(one.folder, tmp_path / "cache")
    load(Store(store.snapshot()))
    assert reads == []


def test_a_version_that_computes_the_same_needs_no_copy_of_its_own(one: World, tmp_path: Path) -> None:
    one.store.adapters.publish(one.draft("other"), one.adapter(1.0))
    store, reads = counting(one.folder, tmp_path / "cache")
    for name in ("lora", "other"):
        store.adapters.load(store.adapters.manifest("digits", name, 1))
    assert reads == ["adapters"]


def test_a_damaged_copy_is_read_again_and_replaced(
    one: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = counting(one.folder, tmp_path / "cache")
    load(store)
    for path in (tmp_path / "cache").glob("*.safetensors"):
        flip(path)
    store, reads = counting(one.folder, tmp_path / "cache")
    load(store)
    assert reads == ["backbones", "tasks", "adapters"]
    assert sum("damaged copy" in record.message for record in caplog.records) == 3
    load(store)
    assert len(reads) == 3


def test_a_damaged_file_of_the_store_never_enters_the_cache(one: World, tmp_path: Path) -> None:
    (path,) = one.folder.glob("adapters/digits/lora/1/*.safetensors")
    flip(path)
    store, _ = counting(one.folder, tmp_path / "cache")
    with pytest.raises(Corrupt):
        store.adapters.load(store.adapters.manifest("digits", "lora", 1))
    assert list((tmp_path / "cache").glob("*.safetensors")) == []
