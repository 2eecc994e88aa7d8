from concurrent.futures import ThreadPoolExecutor

import pytest

from petl_vit.errors import InvalidInput, Overloaded
from tests.serving.registry.adapter_cache.parts import Parts, size_of
from tests.serving.world import METHODS, WAIT_S, World


def test_the_least_recently_used_adapters_go_when_the_bytes_run_out(world: World) -> None:
    room = size_of(world, "lora, ssf") + size_of(world, "bitfit") // 2
    parts = Parts(world, max_bytes=room)
    for text in ("lora", "ssf", "lora", "bitfit"):
        parts.ask(text)
    assert parts.reported.bytes == parts.cache.nbytes == size_of(world, "lora, bitfit") <= room
    assert parts.labels() == ["bitfit:1", "lora:2"]
    assert parts.reported.evictions == 1

    parts.loader.loaded.clear()
    parts.ask("lora, bitfit")
    assert parts.loader.loaded == []
    parts.ask("ssf")
    assert parts.loader.loaded == ["ssf:1"]


def test_an_evicted_adapter_leaves_its_slot(world: World) -> None:
    parts = Parts(world, max_bytes=size_of(world, "lora") + size_of(world, "ssf") // 2)
    parts.run("lora")
    assert parts.digest("lora") in parts.slots

    parts.ask("ssf")

    assert parts.digest("lora") not in parts.slots
    assert parts.slots.nbytes == 0


def test_what_a_request_holds_is_never_evicted_and_the_newcomer_is_refused(world: World) -> None:
    parts = Parts(world, max_bytes=size_of(world, "lora") + 100)
    with parts.cache.lease(world.resolve("lora")) as held:
        (model,) = held.models()
        with pytest.raises(Overloaded, match=r"no memory for shapes/ssf:1.* pinned or in use") as caught:
            parts.models("ssf")
        assert caught.value.field == "host_bytes"
        assert parts.labels() == ["lora:2"]
        assert parts.models("lora")[0].terms[0].adapter is model.terms[0].adapter

    assert len(parts.models("ssf")) == 1, "it is free again"
    assert parts.labels() == ["ssf:1"]


def test_what_is_pinned_is_never_evicted(world: World) -> None:
    parts = Parts(world, max_bytes=size_of(world, "lora") + 100)
    parts.cache.pin(parts.term("lora"))

    with pytest.raises(Overloaded):
        parts.models("ssf")
    assert parts.labels() == ["lora:2"]

    parts.cache.unpin(parts.digest("lora"))
    parts.ask("ssf")
    assert parts.labels() == ["ssf:1"]


def test_nothing_is_evicted_for_an_adapter_that_does_not_fit_anyway(world: World) -> None:
    parts = Parts(world, max_bytes=max(size_of(world, "full"), size_of(world, "lora, ssf, bitfit")))
    parts.ask("ssf")
    parts.cache.pin(parts.term("lora"))

    with pytest.raises(Overloaded):
        parts.models("full")

    assert sorted(parts.labels()) == ["lora:2", "ssf:1"]


def test_a_route_larger_than_the_cache_is_refused(world: World) -> None:
    parts = Parts(world, max_bytes=size_of(world, "lora") + 100)

    for _ in range(2):  # whatever of it is in memory
        with pytest.raises(
            InvalidInput, match=r"the route takes [\d,]+ bytes, the adapter cache has"
        ) as caught:
            parts.models("lora, ssf, bitfit")
        assert caught.value.field == "host_bytes"

    assert parts.reported.bytes <= parts.cache.max_bytes


def test_an_adapter_larger_than_the_cache_is_refused_with_the_setting(world: World) -> None:
    parts = Parts(world, max_bytes=1000)

    with pytest.raises(InvalidInput, match=r"shapes/full:1 takes .* the adapter cache has 1,000") as caught:
        parts.models("full")
    assert caught.value.field == "host_bytes"
    assert parts.reported.adapters == 0


def test_a_small_cache_under_many_threads_never_takes_more_than_it_may(world: World) -> None:
    names = [name for name in METHODS if name not in ("full", "selective")]
    room = sum(sorted(size_of(world, name) for name in names)[-5:])
    parts = Parts(world, max_bytes=room)
    over: list[int] = []

    def work(seed: int) -> None:
        for step in range(60):
            name = names[(seed * 7 + step * 5) % len(names)]
            with parts.cache.lease(world.resolve(name)) as held:
                (model,) = held.models()
                assert model.digests == (parts.digest(name),)
                over.append(max(0, parts.cache.nbytes - room))

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, seed) for seed in range(4)]:
            future.result(WAIT_S)

    assert set(over) == {0}
    residents = parts.cache.residents()
    assert parts.cache.nbytes == parts.reported.bytes == sum(r.registered_bytes for r in residents)
    assert parts.reported.evictions > 0
    assert {resident.rows_in_use for resident in residents} == {0}
