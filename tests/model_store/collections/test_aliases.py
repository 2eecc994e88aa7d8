import threading

import pytest

from model_store.routes.algebra import AdapterRef
from petl_vit.errors import Conflict, NotFound
from tests.model_store.world import World


def test_an_alias_moves_only_from_where_it_is_expected(world: World) -> None:
    for value in (1.0, 2.0, 3.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    with pytest.raises(Conflict, match="does not exist, not at 1"):
        world.store.adapters.set_alias("digits", "lora", "prod", 2, expected=1)
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    world.store.adapters.set_alias("digits", "lora", "prod", 2, expected=1)
    with pytest.raises(Conflict, match="points at version 2, not at 1"):
        world.store.adapters.set_alias("digits", "lora", "prod", 3, expected=1)
    assert world.store.adapters.aliases("digits", "lora") == {"latest": 3, "prod": 2}
    assert world.store.adapters.resolve(AdapterRef(name="lora", alias="prod"), "digits").version == 2


def test_an_alias_needs_a_version_that_exists(world: World) -> None:
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    with pytest.raises(NotFound, match="there is 1"):
        world.store.adapters.set_alias("digits", "lora", "prod", 9)


def test_a_version_that_is_not_promoted_leaves_latest_and_can_be_promoted_later(world: World) -> None:
    adapters = world.store.adapters
    adapters.publish(world.draft(), world.adapter(1.0), latest=False)  # there is no other
    adapters.publish(world.draft(), world.adapter(2.0), latest=False)
    assert adapters.resolve(AdapterRef(name="lora"), "digits").version == 1
    adapters.set_alias("digits", "lora", "latest", 2)
    assert adapters.resolve(AdapterRef(name="lora"), "digits").version == 2
    adapters.publish(world.draft(), world.adapter(3.0))
    assert adapters.resolve(AdapterRef(name="lora"), "digits").version == 3
    assert adapters.remove("digits", "lora", 1) == 3


def test_latest_moves_to_a_version_that_is_not_far_below_its_base_head_when_it_is_deleted(
    world: World,
) -> None:
    adapters = world.store.adapters
    bad = world.draft().model_copy(update={"training": {"far_below_base": True}})
    adapters.publish(world.draft(), world.adapter(1.0))
    adapters.publish(bad, world.adapter(2.0), latest=False)
    adapters.publish(world.draft(), world.adapter(3.0))
    assert adapters.remove("digits", "lora", 3) == 1
    assert adapters.remove("digits", "lora", 1) == 2


def test_of_two_movers_of_one_alias_one_wins(world: World) -> None:
    for value in (1.0, 2.0, 3.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    start, outcomes = threading.Barrier(2), []

    def move(version: int) -> None:
        start.wait()
        try:
            world.store.adapters.set_alias("digits", "lora", "prod", version, expected=1)
            outcomes.append("moved")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=move, args=(version,)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "moved"]
