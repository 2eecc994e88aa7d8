import gc
import threading
import time
import weakref

import pytest

from petl_vit.errors import Conflict
from tests.serving.registry.adapter_cache.parts import Parts, entered, size_of
from tests.serving.world import WAIT_S, World

# Unloading


def test_unloading_frees_the_tensors_and_the_account(parts: Parts) -> None:
    parts.run("lora, ssf")
    adapter = weakref.ref(parts.models("lora")[0].terms[0].adapter)
    before = parts.reported.bytes

    (freed,) = parts.cache.unload(parts.digest("lora")).values()

    gc.collect()
    assert adapter() is None
    assert freed == before - parts.reported.bytes > 0
    assert parts.labels() == ["ssf:1"]
    assert parts.digest("lora") not in parts.slots


def test_unloading_waits_for_the_request_that_holds_it(world: World, parts: Parts) -> None:
    with parts.cache.lease(world.resolve("lora")) as held:
        (model,) = held.models()
        kept, weight = weakref.ref(model.terms[0].adapter), model.head.tensors()["head.weight"].clone()
        before = parts.reported.bytes

        parts.cache.unload(parts.digest("lora"))

        gc.collect()
        assert parts.labels() == []
        assert kept() is not None
        assert parts.reported.bytes == before, "it is still there"
        assert model.head.tensors()["head.weight"].equal(weight)
        del model, held

    gc.collect()
    assert kept() is None
    assert parts.reported.bytes == 0


def test_a_row_that_runs_after_its_adapter_was_unloaded_does_not_bring_it_back(parts: Parts) -> None:
    (model,) = parts.models("lora")
    kept = weakref.ref(model.terms[0].adapter)
    parts.cache.unload(parts.digest("lora"))

    with parts.slots.running([model.terms[0].adapter]):
        assert parts.digest("lora") in parts.slots

    assert parts.digest("lora") not in parts.slots
    del model
    gc.collect()
    assert kept() is None


def test_an_unloaded_adapter_that_is_asked_for_while_held_is_not_loaded_twice(
    world: World, parts: Parts
) -> None:
    size = size_of(world, "lora")
    with parts.cache.lease(world.resolve("lora")) as held:
        (model,) = held.models()
        for _ in range(5):
            parts.cache.unload(parts.digest("lora"))
            assert parts.models("lora")[0].terms[0].adapter is model.terms[0].adapter
            assert parts.reported.bytes == size
    assert parts.loader.loaded == ["lora:2"]
    assert parts.labels() == ["lora:2"]
    assert parts.reported.bytes == size


def test_unloading_under_overlapping_requests_leaks_no_bytes(world: World, parts: Parts) -> None:
    """There is always a request that holds it, as under steady traffic."""
    ends = [threading.Event() for _ in range(6)]
    inside, last = entered(parts, "lora", ends[0])
    assert inside.wait(WAIT_S)
    for number in range(1, 6):
        parts.cache.unload(parts.digest("lora"))
        inside, thread = entered(parts, "lora", ends[number])
        assert inside.wait(WAIT_S)
        ends[number - 1].set()
        last.join(WAIT_S)
        last = thread
        assert parts.reported.bytes == size_of(world, "lora")
    ends[-1].set()
    last.join(WAIT_S)
    assert parts.reported.bytes == size_of(world, "lora")


def test_unloading_says_what_it_cannot_do(parts: Parts) -> None:
    assert parts.cache.unload(parts.digest("lora")) == {}, "it is not in memory"
    assert parts.cache.unpin(parts.digest("lora")) is None

    parts.cache.pin(parts.term("lora"))
    with pytest.raises(Conflict, match="shapes/lora:2 is pinned") as pinned:
        parts.cache.unload(parts.digest("lora"))
    assert pinned.value.remedy == "unpin it first"
    assert parts.labels() == ["lora:2"]

    parts.cache.unpin(parts.digest("lora"))
    assert parts.cache.unload(parts.digest("lora"))[parts.digest("lora")] > 0


# What is in memory


def test_residents_are_told_as_they_are_the_most_recently_used_first(world: World, parts: Parts) -> None:
    before = time.time()
    parts.run("lora")
    parts.cache.pin(parts.term("ssf"))
    parts.ask("bitfit")
    parts.ask("lora@prod")

    with (
        parts.cache.lease(world.resolve("bitfit, 0.5*bitfit")),
        parts.cache.lease(world.resolve("bitfit")),
    ):
        bitfit, prod, ssf, lora = parts.cache.residents()

    assert [r.names for r in (bitfit, prod, ssf, lora)] == [
        ("shapes/bitfit:1",),
        ("shapes/lora:1",),
        ("shapes/ssf:1",),
        ("shapes/lora:2",),
    ]
    assert [r.rows_in_use for r in (bitfit, prod, ssf, lora)] == [2, 0, 0, 0]
    assert [r.pinned for r in (bitfit, prod, ssf, lora)] == [False, False, True, False]
    assert [r.in_slot for r in (bitfit, prod, ssf, lora)] == [False, False, True, True]
    assert [r.slot_bytes > 0 for r in (bitfit, prod, ssf, lora)] == [False, False, True, True]
    assert lora.method == "lora"
    assert lora.registered_bytes == size_of(world, "lora")
    assert time.time() >= bitfit.last_used_at >= prod.last_used_at >= lora.last_used_at >= before
    assert bitfit.digest == parts.digest("bitfit")
