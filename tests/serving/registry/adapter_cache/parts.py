import threading
from collections.abc import Callable

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model
from petl_vit.slots import Slots
from serving.registry.adapter_cache import AdapterCache
from tests.serving.world import WAIT_S, World


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
