import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from petl_vit.errors import Conflict, Corrupt, InvalidInput, NotFound, Overloaded
from tests.serving.registry.adapter_cache.parts import Parts, size_of
from tests.serving.world import METHODS, WAIT_S, World, until

# Loading


def test_many_requests_at_once_load_an_adapter_once(world: World, parts: Parts) -> None:
    go, started = parts.loader.hold("lora:2"), threading.Barrier(9)

    def ask() -> int:
        started.wait(WAIT_S)
        return id(parts.models("lora")[0].terms[0].adapter)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        started.wait(WAIT_S)
        go.set()
        assert len({future.result(WAIT_S) for future in asked}) == 1

    assert parts.loader.loaded == ["lora:2"]
    assert (parts.reported.adapters, parts.reported.loads) == (1, 1)
    assert parts.reported.bytes == parts.cache.nbytes == size_of(world, "lora")


def test_every_registered_method_and_the_base_can_be_loaded(parts: Parts) -> None:
    for name in ("base", *METHODS):
        assert len(parts.models(name)) == 1

    assert parts.reported.adapters == 1 + len(METHODS)


def test_a_load_holds_up_nobody_who_asks_for_another_adapter(parts: Parts) -> None:
    parts.ask("ssf")
    go = parts.loader.hold("lora:2")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(parts.models, "lora")
        until(lambda: "lora:2" in parts.loader.loaded)

        assert len(parts.models("ssf")) == 1, "in memory already"
        assert len(parts.models("bitfit")) == 1, "loaded meanwhile"
        assert parts.cache.residents()[0].names == ("shapes/bitfit:1",)
        assert not waiting.done()

        go.set()
        assert len(waiting.result(WAIT_S)) == 1


def test_a_failure_reaches_all_that_wait_and_is_forgotten(own_world: World) -> None:
    file = own_world.adapter_file("shapes", "ssf", 1)
    good = file.read_bytes()
    file.write_bytes(good[:100])
    parts = Parts(own_world)
    go = parts.loader.hold("ssf:1")
    with ThreadPoolExecutor(4) as pool:
        asked: list[Future[object]] = [pool.submit(parts.models, "lora, ssf") for _ in range(4)]
        until(lambda: parts.cache.leases(parts.digest("ssf")) == 4)
        go.set()
        for future in asked:
            assert isinstance(future.exception(WAIT_S), Corrupt)
    assert parts.loader.loaded.count("ssf:1") == 1

    file.write_bytes(good)
    assert len(parts.models("lora, ssf")) == 2
    assert sorted(parts.labels()) == ["lora:2", "ssf:1"]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "foreign"])
def test_a_damaged_file_is_refused_and_the_cache_goes_on(own_world: World, damage: str) -> None:
    file = own_world.adapter_file("shapes", "ssf", 1)
    good = file.read_bytes()
    damaged = {
        "flipped": good[:-3] + bytes([good[-3] ^ 0x40]) + good[-2:],
        "truncated": good[: len(good) // 2],
        "foreign": own_world.adapter_file("shapes", "lora", 2).read_bytes(),
    }
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    parts = Parts(own_world)

    for _ in range(2):
        with pytest.raises(Corrupt, match="shapes/ssf:1 cannot be loaded"):
            parts.models("lora, ssf")

    assert len(parts.models("lora")) == 1
    assert parts.labels() == ["lora:2"]
    file.write_bytes(good)
    assert len(parts.models("lora, ssf")) == 2, "a repaired file needs no restart"


def test_two_names_of_the_same_content_share_one_entry(own_world: World) -> None:
    one = own_world.publish("shapes", "lora", seed=77, name="first")
    two = own_world.publish("shapes", "lora", seed=77, name="second")
    assert one.digest == two.digest
    parts = Parts(own_world)

    ensemble = parts.models("first, second")
    parts.ask("second")

    assert ensemble[0].terms[0].adapter is ensemble[1].terms[0].adapter
    (resident,) = parts.cache.residents()
    assert resident.digest == one.digest
    assert parts.loader.loaded == ["second:1"] or parts.loader.loaded == ["first:1"]
    assert "shapes/second:1" in resident.names
    assert parts.reported.adapters == 1


# Loading ahead and pinning


def test_loading_ahead_gives_an_adapter_a_slot(parts: Parts) -> None:
    resident = parts.cache.load(parts.term("lora"))

    assert (resident.in_slot, resident.pinned) == (True, False)
    assert resident.slot_bytes == resident.registered_bytes == parts.slots.nbytes
    assert parts.cache.load(parts.term("lora")).digest == resident.digest
    assert parts.loader.loaded == ["lora:2"]


def test_loading_ahead_waits_for_no_slot(world: World) -> None:
    parts = Parts(world, slots=1)
    with parts.slots.running([parts.models("ssf")[0].terms[0].adapter]):
        resident = parts.cache.load(parts.term("lora"))

    assert not resident.in_slot
    assert sorted(parts.labels()) == ["lora:2", "ssf:1"]


def test_loads_ahead_pause_while_others_wait_for_answers(world: World) -> None:
    asked = 0

    def busy_at_first() -> bool:
        nonlocal asked
        asked += 1
        return asked < 4

    parts = Parts(world, busy=busy_at_first)
    parts.cache.load(parts.term("ssf"))
    parts.cache.preloads.resume_at = time.monotonic() + WAIT_S
    parts.cache.load(parts.term("ssf"))
    assert asked == 0, "what is in memory already needs no pause"

    parts.cache.load(parts.term("lora"))
    assert asked == 4, "not a moment longer than they wait"
    assert parts.loader.loaded == ["ssf:1", "lora:2"]


def test_a_pause_between_loads_ahead_ends_though_others_still_wait(world: World) -> None:
    parts = Parts(world, busy=lambda: True)
    for name in ("ssf", "lora", "bitfit"):
        before, started = parts.cache.preloads.resume_at, time.monotonic()
        parts.cache.load(parts.term(name))
        assert time.monotonic() > before
        assert parts.cache.preloads.resume_at > started
    assert parts.loader.loaded == ["ssf:1", "lora:2", "bitfit:1"]


def test_a_request_waits_for_no_pause_between_loads_ahead(world: World) -> None:
    busy = threading.Event()
    busy.set()
    parts = Parts(world, busy=busy.is_set)
    parts.cache.preloads.resume_at = time.monotonic() + WAIT_S
    ahead = threading.Thread(target=parts.cache.load, args=[parts.term("bitfit")])
    ahead.start()
    until(lambda: parts.cache.preloads.under_way)

    parts.models("lora")
    assert parts.loader.loaded == ["lora:2"]
    busy.clear()
    ahead.join(WAIT_S)
    assert parts.loader.loaded == ["lora:2", "bitfit:1"]


def test_loads_ahead_take_turns_and_hold_up_nobody_who_asks_for_what_is_there(world: World) -> None:
    parts = Parts(world)
    parts.cache.load(parts.term("ssf"))
    go = parts.loader.hold("lora:2")
    with ThreadPoolExecutor(2) as people:
        first = people.submit(parts.cache.load, parts.term("lora"))
        until(lambda: parts.loader.loaded[-1] == "lora:2")
        second = people.submit(parts.cache.load, parts.term("bitfit"))
        assert parts.cache.load(parts.term("ssf")).in_slot
        assert parts.cache.pin(parts.term("ssf")).pinned
        assert parts.loader.loaded == ["ssf:1", "lora:2"]
        go.set()
        assert first.result(WAIT_S).in_slot
        assert second.result(WAIT_S).in_slot
    assert parts.loader.loaded == ["ssf:1", "lora:2", "bitfit:1"]


def test_a_load_ahead_that_fails_is_followed_by_a_pause_too(world: World) -> None:
    parts = Parts(world, max_bytes=1000)
    with pytest.raises(InvalidInput):
        parts.cache.load(parts.term("full"))
    assert parts.cache.preloads.resume_at > 0


def test_pinning_needs_a_slot_and_leaves_nothing_behind_without_one(world: World) -> None:
    parts = Parts(world, slots=1)
    parts.cache.pin(parts.term("ssf"))

    with pytest.raises(Overloaded, match="slots are pinned"):
        parts.cache.pin(parts.term("lora"))

    by_name = {resident.names[0]: resident for resident in parts.cache.residents()}
    assert by_name["shapes/ssf:1"].pinned
    assert not by_name["shapes/lora:2"].pinned
    assert parts.cache.unload(parts.digest("lora"))


def test_a_pinned_adapter_keeps_its_slot(world: World) -> None:
    parts = Parts(world, slots=2)
    assert parts.cache.pin(parts.term("lora")).pinned
    for text in ("ssf", "bitfit", "layernorm"):
        parts.run(text)
    assert parts.digest("lora") in parts.slots

    unpinned = parts.cache.unpin(parts.digest("lora"))
    assert unpinned is not None
    assert not unpinned.pinned
    for text in ("ssf", "bitfit", "layernorm"):
        parts.run(text)
    assert parts.digest("lora") not in parts.slots


def test_threads_that_load_pin_and_unload_one_adapter_leave_a_true_account(world: World) -> None:
    parts = Parts(world, slots=4)
    over = threading.Event()

    def work(action: int) -> None:
        while not over.is_set():
            try:
                if action == 0:
                    parts.cache.unload(parts.digest("lora"))
                elif action == 1:
                    parts.cache.pin(parts.term("lora"))
                    parts.cache.unpin(parts.digest("lora"))
                else:
                    parts.cache.load(parts.term("lora"))
            except (NotFound, Conflict):
                continue

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, action) for action in range(3)]
        try:
            for _ in range(200):
                with suppress(NotFound, Conflict):
                    parts.run("lora, ssf")
        finally:
            over.set()
        for future in futures:
            future.result(WAIT_S)

    residents = parts.cache.residents()
    assert parts.cache.nbytes == sum(r.registered_bytes for r in residents)
    assert sum(r.in_slot for r in residents) == len(parts.slots)
    for resident in residents:
        if resident.pinned:
            parts.cache.unpin(resident.digest)
        parts.cache.unload(resident.digest)
    assert (parts.cache.nbytes, parts.slots.nbytes, len(parts.slots)) == (0, 0, 0)
