import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model
from petl_vit.errors import Conflict, Corrupt, InvalidInput, NotFound, Overloaded
from petl_vit.slots import Slots
from serving.registry.adapter_cache import AdapterCache
from tests.serving.world import METHODS, WAIT_S, World, until


class Reported:
    """What an adapter cache reported."""

    def __init__(self) -> None:
        self.adapters, self.bytes = 0, 0
        self.in_slots, self.slot_bytes = 0, 0
        self.loads, self.evictions = 0, 0

    def set_registered(self, adapters: int, size: int) -> None:
        self.adapters, self.bytes = adapters, size

    def set_slots(self, adapters: int, size: int) -> None:
        self.in_slots, self.slot_bytes = adapters, size

    def adapter_loaded(self, seconds: float) -> None:
        assert seconds > 0
        self.loads += 1

    def adapter_evicted(self) -> None:
        self.evictions += 1


class CountingLoader(Loader):
    """A real loader that remembers what it loaded, and can be held up at one adapter."""

    def __init__(self, world: World) -> None:
        super().__init__(world.store, world.backbone)
        self.loaded: list[str] = []
        self.held: dict[str, threading.Event] = {}

    def hold(self, label: str) -> threading.Event:
        return self.held.setdefault(label, threading.Event())

    def adapter(self, term: ResolvedTerm) -> Adapter:
        self.loaded.append(term.label)
        if (go := self.held.get(term.label)) is not None:
            assert go.wait(WAIT_S)
        return super().adapter(term)


class Parts:
    """An adapter cache and what it stands on."""

    def __init__(
        self,
        world: World,
        *,
        max_bytes: int = 2**30,
        slots: int | None = None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.world = world
        self.loader, self.reported = CountingLoader(world), Reported()
        self.slots = Slots(count=slots)
        self.cache = AdapterCache(
            self.loader, slots=self.slots, max_bytes=max_bytes, metrics=self.reported, busy=busy
        )

    def models(self, text: str) -> tuple[Model, ...]:
        return self.cache.models(self.world.resolve(text))

    def ask(self, text: str) -> None:
        """Uses a route's adapters for a moment."""
        self.models(text)

    def term(self, text: str) -> ResolvedTerm:
        return next(self.world.resolve(text).terms())

    def digest(self, text: str) -> str:
        return self.term(text).digest

    def run(self, text: str) -> None:
        """What the engine does with a route's adapters."""
        with self.slots.running([term.adapter for model in self.models(text) for term in model.terms]):
            pass

    def labels(self) -> list[str]:
        return [name.partition("/")[2] for resident in self.cache.residents() for name in resident.names]


@pytest.fixture
def parts(world: World) -> Iterator[Parts]:
    made = Parts(world)
    yield made
    made.cache.close()


def size_of(world: World, text: str) -> int:
    loader = Loader(world.store, world.backbone)
    return sum(loader.adapter(term).nbytes for term in world.resolve(text).terms())


def entered(parts: Parts, text: str, until_set: threading.Event) -> tuple[threading.Event, threading.Thread]:
    """A thread that holds a route's adapters until an event."""
    inside = threading.Event()

    def hold() -> None:
        with parts.cache.lease(parts.world.resolve(text)) as held:
            held.models()
            inside.set()
            assert until_set.wait(WAIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    return inside, thread


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


# The least recently used go


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
