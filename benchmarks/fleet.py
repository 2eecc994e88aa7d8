"""A fleet of servers in simulated time: routing, memory for adapters, batches; what queues, what is loaded.

It knows neither torch nor the network: a replica is a forward of so many milliseconds for so many rows, and
a memory of so many adapters.
"""

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import nsmallest
from typing import Any

import numpy as np
import simpy

_SPILL_BATCHES = 2


class Placement(StrEnum):
    """Which replica a request goes to."""

    RANDOM = "random"
    """Any, as behind a plain load balancer."""
    AFFINITY = "affinity"
    """The less busy of two that its adapter hashes to; where both have more to do than two batches, the least
    busy of all, so that a hot adapter is not held up by its place."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One server.

    Attributes:
        batch_ms, row_ms: A forward of n rows takes `batch_ms + n * row_ms`.
        memory, disk: Adapters that fit into its memory, and into its copy on disk.
        load_ms, fetch_ms: From disk to memory, and from the store to disk and memory.
    """

    batch_ms: float
    row_ms: float
    max_batch_rows: int = 32
    memory: int = 1000
    disk: int = 10_000
    load_ms: float = 5.0
    fetch_ms: float = 100.0

    @property
    def rows_per_s(self) -> float:
        """Of full batches: what it can do at most."""
        return 1000 * self.max_batch_rows / (self.batch_ms + self.max_batch_rows * self.row_ms)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests of one row each; adapter k is asked for in proportion to k^-exponent.

    Attributes:
        warm_s: Until then nothing counts.
        warm_requests: That were answered before, so that memories hold what long traffic leaves there.
    """

    per_s: float
    adapters: int
    exponent: float
    seconds: float
    warm_s: float = 0.0
    warm_requests: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the requests after the warm-up.

    Attributes:
        waits_ms: From arrival to answer, one for each request.
        busy: The share of the time in which a replica computes, one for each.
        loads: Requests by where their adapter was: memory, disk or store.
    """

    waits_ms: Sequence[float]
    busy: Sequence[float]
    loads: Counter[str]

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.waits_ms, percent))

    def share(self, where: str) -> float:
        """Of the requests, whose adapter was there."""
        return self.loads[where] / max(1, self.loads.total())


class _Cache:
    """Adapters, the least recently used of which goes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._held: OrderedDict[int, None] = OrderedDict()

    def use(self, adapter: int) -> bool:
        """Whether it is there; it is afterwards."""
        hit = adapter in self._held
        self._held[adapter] = None
        self._held.move_to_end(adapter)
        if len(self._held) > self._room:
            self._held.popitem(last=False)
        return hit


class _Server:
    """A replica at work."""

    def __init__(self, env: simpy.Environment, replica: Replica, warm_s: float) -> None:
        self._env, self._replica, self._warm = env, replica, warm_s
        self._memory, self._disk = _Cache(replica.memory), _Cache(replica.disk)
        self._there: dict[int, float] = {}  # until when an adapter is being loaded
        self._waiting: deque[float] = deque()
        self._work = env.event()
        self.pending = 0
        self.busy = 0.0
        self.waits: list[float] = []
        self.loads: Counter[str] = Counter()
        env.process(self._serve())

    def remember(self, adapter: int) -> None:
        """A request that was answered before."""
        self._memory.use(adapter)
        self._disk.use(adapter)

    def arrive(self, adapter: int) -> None:
        """A request; it waits for its adapter, then for its turn."""
        self.pending += 1
        now = self._env.now
        in_memory, on_disk = self._memory.use(adapter), self._disk.use(adapter)
        where = "memory" if in_memory else "disk" if on_disk else "store"
        took = {"memory": 0.0, "disk": self._replica.load_ms, "store": self._replica.fetch_ms}[where]
        if now >= self._warm:
            self.loads[where] += 1
        if took:
            self._there[adapter] = now + took / 1000
        ready = self._there.get(adapter, now)
        if ready <= now:
            self._there.pop(adapter, None)
            self._queue(now)
        else:
            self._env.process(self._later(ready - now, now))

    def _later(self, seconds: float, arrived: float) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(seconds)
        self._queue(arrived)

    def _queue(self, arrived: float) -> None:
        self._waiting.append(arrived)
        if not self._work.triggered:
            self._work.succeed()

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        """Runs what waits, at once and together, as the batcher does."""
        while True:
            if not self._waiting:
                self._work = self._env.event()
                yield self._work
            batch = [
                self._waiting.popleft() for _ in range(min(len(self._waiting), self._replica.max_batch_rows))
            ]
            seconds = (self._replica.batch_ms + len(batch) * self._replica.row_ms) / 1000
            yield self._env.timeout(seconds)
            self.pending -= len(batch)
            if self._env.now >= self._warm:
                self.busy += min(seconds, self._env.now - self._warm)
                self.waits += [self._env.now - arrived for arrived in batch if arrived >= self._warm]


def simulate(
    replica: Replica, count: int, traffic: Traffic, placement: Placement, *, seed: int = 0
) -> Outcome:
    """So many equal replicas under traffic that arrives at random (Poisson)."""
    env, generator = simpy.Environment(), np.random.default_rng(seed)
    warm = traffic.warm_s
    servers = [_Server(env, replica, warm) for _ in range(count)]
    env.process(_arrivals(env, servers, replica, traffic, placement, generator))
    env.run(until=traffic.seconds)
    return Outcome(
        waits_ms=[1000 * wait for server in servers for wait in server.waits],
        busy=[server.busy / (traffic.seconds - warm) for server in servers],
        loads=sum((server.loads for server in servers), Counter()),
    )


def _arrivals(
    env: simpy.Environment,
    servers: Sequence[_Server],
    replica: Replica,
    traffic: Traffic,
    placement: Placement,
    generator: np.random.Generator,
) -> Generator[simpy.Event, Any, None]:
    chosen = _adapters(traffic, generator)
    places = [_places(adapter, len(servers)) for adapter in range(traffic.adapters)]
    full = _SPILL_BATCHES * replica.max_batch_rows
    for place, adapter in zip(
        generator.integers(len(servers), size=traffic.warm_requests), chosen, strict=False
    ):
        of = places[adapter]
        servers[int(place) if placement is Placement.RANDOM else of[int(place) % len(of)]].remember(adapter)
    while True:
        for gap in generator.exponential(1 / traffic.per_s, 1000):
            yield env.timeout(float(gap))
            adapter = next(chosen)
            if placement is Placement.RANDOM:
                server = servers[int(generator.integers(len(servers)))]
            else:
                server = _preferred(servers, places[adapter], full)
            server.arrive(adapter)


def _adapters(traffic: Traffic, generator: np.random.Generator) -> Iterator[int]:
    weights = np.arange(1, traffic.adapters + 1, dtype=np.float64) ** -traffic.exponent
    weights /= weights.sum()
    while True:
        yield from generator.choice(traffic.adapters, size=10_000, p=weights).tolist()


def _places(adapter: int, replicas: int) -> list[int]:
    """Rendezvous hashing: a replica that comes or goes moves only its own adapters."""

    def score(place: int) -> bytes:
        return hashlib.blake2b(f"{adapter}/{place}".encode(), digest_size=8).digest()

    return nsmallest(2, range(replicas), key=score)


def _preferred(servers: Sequence[_Server], places: Sequence[int], full: int) -> _Server:
    best = min((servers[place] for place in places), key=lambda server: server.pending)
    return best if best.pending < full else min(servers, key=lambda server: server.pending)
