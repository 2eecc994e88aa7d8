import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_store.loading import Loader, adapter_bytes
from model_store.resolution import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.errors import Corrupt, InvalidInput
from serving.bank import Bank
from tests.serving.world import METHODS, WAIT_S, World


class Registered:
    """What a bank reported last."""

    def __init__(self) -> None:
        self.adapters, self.bytes = 0, 0

    def set_registered(self, adapters: int, size: int) -> None:
        self.adapters, self.bytes = adapters, size


class CountingLoader(Loader):
    """A real loader that remembers what it loaded, and can be held up."""

    def __init__(self, world: World) -> None:
        super().__init__(world.store, world.backbone)
        self.loaded: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def adapter(self, term: ResolvedTerm) -> Adapter:
        self.loaded.append(term.label)
        assert self.go.wait(WAIT_S)
        return super().adapter(term)

    def size(self, world: World, text: str) -> int:
        return sum(adapter_bytes(super(CountingLoader, self).adapter(t)) for t in world.resolve(text).terms())


@pytest.fixture
def loader(world: World) -> CountingLoader:
    return CountingLoader(world)


@pytest.fixture
def registered() -> Registered:
    return Registered()


def test_many_requests_at_once_load_an_adapter_once(
    world: World, loader: CountingLoader, registered: Registered
) -> None:
    bank, route = Bank(loader, max_bytes=2**30, metrics=registered), world.resolve("lora")
    loader.go.clear()
    started = threading.Barrier(9)

    def ask() -> int:
        started.wait(WAIT_S)
        return id(bank.models(route)[0].terms[0].adapter)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        started.wait(WAIT_S)
        loader.go.set()
        assert len({future.result(WAIT_S) for future in asked}) == 1

    assert loader.loaded == ["lora:2"]
    assert (registered.adapters, registered.bytes) == (1, loader.size(world, "lora"))


def test_every_registered_method_and_the_base_can_be_loaded(
    world: World, loader: CountingLoader, registered: Registered
) -> None:
    bank = Bank(loader, max_bytes=2**30, metrics=registered)

    for name in ("base", *METHODS):
        assert len(bank.models(world.resolve(name))) == 1

    assert registered.adapters == 1 + len(METHODS)


def test_the_least_recently_used_adapters_go_when_the_bytes_run_out(
    world: World, loader: CountingLoader, registered: Registered
) -> None:
    room = loader.size(world, "lora, ssf") + loader.size(world, "bitfit") // 2
    bank = Bank(loader, max_bytes=room, metrics=registered)
    for text in ("lora", "ssf", "lora", "bitfit"):
        bank.models(world.resolve(text))
    assert registered.bytes == loader.size(world, "lora, bitfit") <= room

    loader.loaded.clear()
    bank.models(world.resolve("lora, bitfit"))
    assert loader.loaded == []
    bank.models(world.resolve("ssf"))
    assert loader.loaded == ["ssf:1"]


def test_an_adapter_that_a_request_holds_survives_its_eviction(
    world: World, loader: CountingLoader, registered: Registered
) -> None:
    bank = Bank(loader, max_bytes=loader.size(world, "lora"), metrics=registered)
    (held,) = bank.models(world.resolve("lora"))
    before = held.terms[0].adapter.head.weight.clone()

    bank.models(world.resolve("ssf"))

    assert registered.adapters == 1
    assert held.terms[0].adapter.head.weight.equal(before)
    (again,) = bank.models(world.resolve("lora"))
    assert again.terms[0].adapter is not held.terms[0].adapter


def test_a_route_may_hold_more_than_the_bank_keeps(
    world: World, loader: CountingLoader, registered: Registered
) -> None:
    bank = Bank(loader, max_bytes=loader.size(world, "lora"), metrics=registered)

    assert len(bank.models(world.resolve("lora, ssf, bitfit"))) == 3
    assert registered.adapters == 1


def test_an_adapter_larger_than_the_bank_is_refused_with_the_setting(
    world: World, loader: CountingLoader, registered: Registered
) -> None:
    bank = Bank(loader, max_bytes=1000, metrics=registered)

    with pytest.raises(InvalidInput, match=r"shapes/full:1 takes .* the bank has 1,000"):
        bank.models(world.resolve("full"))
    assert registered.adapters == 0


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "foreign"])
def test_a_damaged_file_is_refused_and_the_bank_goes_on(
    own_world: World, registered: Registered, damage: str
) -> None:
    file = own_world.adapter_file("shapes", "ssf", 1)
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-3] ^= 0x40
        file.write_bytes(data)
    elif damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(own_world.adapter_file("shapes", "lora", 2).read_bytes())
    loader = CountingLoader(own_world)
    bank = Bank(loader, max_bytes=2**30, metrics=registered)

    for _ in range(2):
        with pytest.raises(Corrupt, match="shapes/ssf:1 cannot be loaded"):
            bank.models(own_world.resolve("lora, ssf"))

    assert len(bank.models(own_world.resolve("lora"))) == 1
    assert registered.adapters == 1
    file.write_bytes(data if damage in ("truncated", "missing", "foreign") else bytes(_unflipped(data)))
    assert len(bank.models(own_world.resolve("lora, ssf"))) == 2, "a repaired file needs no restart"


def _unflipped(data: bytearray) -> bytearray:
    data[-3] ^= 0x40
    return data
