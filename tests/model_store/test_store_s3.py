"""The store over the real S3 protocol: moto's server on loopback."""

from pathlib import Path

import pytest

from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.errors import Conflict
from tests.model_store.world import World

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


def test_a_bucket_is_a_store(url: str, tmp_path: Path) -> None:
    world = World(Store.open(url), tmp_path)
    first = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    second = world.store.adapters.publish(world.draft(), world.adapter(2.0))
    assert world.store.adapters.publish(world.draft(), world.adapter(2.0)) == second
    other = Store.open(url)
    assert other.adapters.versions("digits", "lora") == [1, 2]
    assert other.adapters.resolve(AdapterRef(name="lora"), "digits") == second
    assert other.adapters.load(first).keys() == world.adapter(1.0).keys()
    assert other.backbones.load(other.backbones.get("tiny.one")).keys() == world.weights(1.0).keys()
    assert other.tasks.list() == [world.task]


def test_aliases_in_a_bucket_move_by_compare_and_swap(url: str, tmp_path: Path) -> None:
    world = World(Store.open(url), tmp_path)
    for value in (1.0, 2.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    world.store.adapters.set_alias("digits", "lora", "prod", 2, expected=1)
    with pytest.raises(Conflict, match="points at version 2"):
        world.store.adapters.set_alias("digits", "lora", "prod", 1, expected=1)
    assert world.store.adapters.aliases("digits", "lora") == {"latest": 2, "prod": 2}


def test_a_snapshot_follows_the_aliases_of_a_bucket(url: str, tmp_path: Path) -> None:
    world = World(Store.open(url), tmp_path)
    for value in (1.0, 2.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    first, prod = Store.open(url).snapshot(), AdapterRef(name="lora", alias="prod")
    assert Store(first).adapters.resolve(prod, "digits").version == 1
    world.store.adapters.set_alias("digits", "lora", "prod", 2)
    later = first.later()
    assert later is not None
    assert Store(later).adapters.resolve(prod, "digits").version == 2
    assert Store(first).adapters.resolve(prod, "digits").version == 1


def test_a_write_that_comes_between_is_seen_and_tried_again(url: str) -> None:
    first, second = Store.open(url).place, Store.open(url).place
    first.swap("n", lambda _: b"1")
    seen: list[bytes | None] = []

    def change(data: bytes | None) -> bytes:
        if not seen:
            second.swap("n", lambda _: b"2")
        seen.append(data)
        return b"3"

    first.swap("n", change)
    assert seen == [b"1", b"2"]
    assert second.read("n") == b"3"
