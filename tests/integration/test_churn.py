"""No cross-talk under churn: clients over gRPC, many adapters, few slots, host memory for a third of them.

Every answer is compared with what its own adapters give alone, computed from the store by `Batch`. Traffic
lasts ten seconds and until it did churn; `CHURN_S=60` makes it a minute.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.resolution.loading import Loader, models
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Row
from petl_vit.errors import Conflict, NotFound, Overloaded
from petl_vit.precision import Precision
from petl_vit.preprocess import preprocess
from serving.client.admin import AdminClient
from serving.client.messages import RequestFailed
from serving.settings import Settings
from tests.serving.world import METHODS, PREPROCESS, SIZE, WAIT_S, Running, World, encoded

CLIENTS = 4
ADAPTERS = 64
SLOTS = 8
IMAGES = 4
TOLERANCE = {Precision.FP32: 1e-4, Precision.BF16: 5e-2}
"""What the rows beside one may change of its logits, relative to the largest. In bf16 another last digit of
float32 may move a rounding, 1.3 % of these random models' logits at the most seen."""
FAR = 5
"""How many times that two routes are apart, of which one could be taken for the other."""
SECONDS = float(os.environ.get("CHURN_S", "10"))
ANSWERS = 40
"""How many there are at least, however slow the machine; and an eighth of the adapters is evicted."""
RANKED = ("lora", "adaptformer", "houlsby", "pfeiffer", "convpass", "repadapter", "fact_tt", "fact_tk")
RANKS = (2, 4, 6, 12)
NAMES = [f"a{number}" for number in range(ADAPTERS)]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a route must answer.

    Attributes:
        logits: [IMAGES, C], of mean 0: what probabilities tell.
    """

    text: str
    logits: NDArray[np.float64]
    digests: frozenset[str]


def publish_all(world: World) -> None:
    """Adapters `a0` to `a63` of all methods but full tuning, those of a rank in several."""
    with_rank = [(method, {"rank": rank}) for method in RANKED for rank in RANKS]
    without: list[tuple[str, dict[str, object]]] = [
        (name.replace("-", "_"), {}) for name in METHODS if name.replace("-", "_") not in (*RANKED, "full")
    ]
    chosen = [*with_rank, *(without * 10)][:ADAPTERS]
    for number, (name, (method, settings)) in enumerate(zip(NAMES, chosen, strict=True)):
        world.publish("shapes", method, seed=1000 + number, name=name, settings=settings)


def routes_of(names: list[str]) -> list[str]:
    """Every adapter alone at some alpha; and sums and ensembles of them, all in one task."""
    chance = random.Random(1)
    alone = [f"{chance.choice(('', '', '0.5*', '0.8*'))}{name}" for name in names]
    several = []
    for _ in range(16):
        a, b, c, d = chance.sample(names, 4)
        several += [f"0.6*{a} + 0.3*{b}", f"2: {a}, 1: 0.7*{b}, 1: {c}", f"prob({a}, {b}, {c}, {d})"]
        several += [f"{a}, 0.5*{b} + 0.5*{c}, {d}"]
    return alone + several


class Reference:
    """Answers from the store, a row at a time."""

    def __init__(self, world: World, precision: Precision) -> None:
        self._world, self._loader = world, Loader(world.store, world.backbone, precision=precision)
        self._batch = Batch(self._loader.vit(SIZE))
        self._images = [preprocess(encoded(i), PREPROCESS) for i in range(IMAGES)]
        self._adapters: dict[str, Adapter] = {}

    def size(self) -> int:
        return sum(adapter.nbytes for adapter in self._adapters.values())

    def __call__(self, text: str) -> Expected:
        resolved = self._world.resolve(text)
        for term in resolved.terms():
            if term.digest not in self._adapters:
                self._adapters[term.digest] = self._loader.adapter(term)
        members = [
            [
                self._batch.logits(image[None], [Row(image=0, model=model)])[0].double().numpy()
                for image in self._images
            ]
            for model in models(resolved.members, self._adapters)
        ]
        weights = [member.weight for member in resolved.members]
        if resolved.combine == "prob":
            found = np.log(np.average(softmax(np.array(members)), axis=0, weights=weights))
        else:
            found = np.average(members, axis=0, weights=weights)
        return Expected(
            text=text, logits=centred(found), digests=frozenset(term.digest for term in resolved.terms())
        )


def softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def centred(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(z - z.mean(axis=-1, keepdims=True))


def relative(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def distance(a: Expected, b: Expected) -> float:
    """On the image whose answers are nearest."""
    return min(relative(a.logits[[i]], b.logits[[i]]) for i in range(IMAGES))


class Churn:
    """A world of many adapters and what its routes must answer, each unlike every other."""

    def __init__(self, world: World, precision: Precision) -> None:
        self.precision, self.tolerance, self.world = precision, TOLERANCE[precision], world
        reference = Reference(world, precision)
        self.expected = list[Expected]()
        for found in map(reference, routes_of(NAMES)):
            if all(distance(found, other) > FAR * self.tolerance for other in self.expected):
                self.expected.append(found)
        self.host_bytes = reference.size() // 3

    def settings(self) -> Settings:
        return self.world.settings(
            slots=SLOTS,
            host_bytes=self.host_bytes,
            max_batch_rows=16,
            precision=str(self.precision),
            device="cpu",
        )


@pytest.fixture(scope="module")
def full_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World.make(tmp_path_factory.mktemp("churn") / "store")
    publish_all(world)
    return world


@pytest.fixture(scope="module")
def churn(full_world: World) -> Churn:
    return Churn(full_world, Precision.FP32)


@pytest.fixture(scope="module")
def churn_in_bf16(full_world: World) -> Churn:
    return Churn(full_world, Precision.BF16)


class Traffic:
    """Clients and an administrator, for some seconds and until enough was answered."""

    def __init__(self, churn: Churn, running: Running, seconds: float) -> None:
        self._churn, self._running = churn, running
        self._end = time.monotonic() + seconds
        self.answers: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self.problems: list[str] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._guard, args=(self._ask, seed)) for seed in range(CLIENTS)]
        threads.append(threading.Thread(target=self._guard, args=(self._administer, 99)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * WAIT_S + SECONDS)
            assert not thread.is_alive()

    def _over(self) -> bool:
        left = self._end - time.monotonic()
        return bool(self.problems) or left < -WAIT_S or (left <= 0 and self.did_churn())

    def did_churn(self) -> bool:
        """Whether enough was answered, changed and evicted for a mistake to be seen."""
        evicted = self._running.value("corolla_adapter_evictions_total")
        changed = all(self.changes[what] for what in ("load", "pin", "unload"))
        return changed and evicted > ADAPTERS / 8 and self.answers.total() > ANSWERS

    def _guard(self, work: Any, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not self._over():
                work(chance)
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def _ask(self, chance: random.Random) -> None:
        with self._running.client() as client:
            for _ in range(50):
                if self._over():
                    return
                expected = chance.choice(self._churn.expected)
                images = chance.sample(range(IMAGES), chance.randint(1, 3))
                with self._may_be_refused("client", "RESOURCE_EXHAUSTED"):
                    answer = client.classify(
                        [encoded(i) for i in images], route=expected.text, task="shapes", probabilities=True
                    )
                    self._check(expected, images, answer)

    def _check(self, expected: Expected, images: list[int], answer: Any) -> None:
        self.answers[expected.text] += 1
        digests = {adapter.digest for adapter in answer.adapters}
        if digests != expected.digests:
            self.problems.append(f"{expected.text} was answered by {answer.route}")
        found = centred(np.log([list(result.probabilities) for result in answer.results]))
        difference = relative(found, expected.logits[images])
        if not difference <= self._churn.tolerance:
            self.problems.append(f"{expected.text}: off by {difference:.2g}")

    def _administer(self, chance: random.Random) -> None:
        """Loads, pins and unloads, above all what is in use right now."""
        cache = self._running.server.service.adapter_cache
        with self._running.client() as client:
            admin, pinned = AdminClient(client), list[str]()
            for step in range(100):
                name = self._name(chance)
                if len(pinned) == 2:
                    admin.unpin_adapter(pinned.pop(0), task="shapes")
                term = next(self._churn.world.resolve(name).terms())
                with self._may_be_refused("admin", "NOT_FOUND", "ABORTED", "RESOURCE_EXHAUSTED"):
                    match step % 6:
                        case 0:
                            admin.load_adapter(name, task="shapes")
                            self.changes["load"] += 1
                        case 1:
                            admin.pin_adapter(name, task="shapes")
                            pinned += [] if name in pinned else [name]
                            self.changes["pin"] += 1
                        case 2:
                            admin.unload_adapter(name, task="shapes")
                            self.changes["unload"] += 1
                        case 3:
                            cache.load(term)
                            self.changes["load"] += 1
                        case _:
                            cache.unload(term.digest)
                            self.changes["unload"] += 1
                self._check_memory()
            for name in pinned:
                admin.unpin_adapter(name, task="shapes")

    def _name(self, chance: random.Random) -> str:
        """Any adapter, or one of those used last."""
        residents = self._running.server.service.adapter_cache.residents()[:SLOTS]
        recent = [resident.names[0].partition("/")[2].partition(":")[0] for resident in residents]
        return chance.choice([*chance.sample(NAMES, SLOTS), *recent])

    @contextmanager
    def _may_be_refused(self, who: str, *codes: str) -> Iterator[None]:
        """By what stands in the way: it is not there, it is pinned, or all memory or slots are in use."""
        try:
            yield
        except (NotFound, Conflict, Overloaded) as error:
            self.changes[f"{who} {type(error).__name__}"] += 1
        except RequestFailed as error:
            self.changes[f"{who} {error.code}"] += 1
            if error.code not in codes:
                raise

    def _check_memory(self) -> None:
        size, slots = (
            self._running.value(f"corolla_{name}") for name in ("registered_bytes", "slot_adapters")
        )
        if size > self._churn.host_bytes or slots > SLOTS:
            self.problems.append(f"{size} bytes are registered, {slots} slots are taken")


@pytest.mark.parametrize("kind", ["churn", "churn_in_bf16"])
def test_the_references_tell_each_other_apart(kind: str, request: pytest.FixtureRequest) -> None:
    """So that an answer of another adapter would be noticed, by a wide margin."""
    churn: Churn = request.getfixturevalue(kind)
    closest = min(distance(a, b) for n, a in enumerate(churn.expected) for b in churn.expected[:n])
    assert closest > FAR * churn.tolerance
    assert len(churn.expected) >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aliased", "seconds"), [(True, SECONDS), (False, SECONDS / 5)], ids=["aliased", "stacked"]
)
def test_no_cross_talk_under_churn(churn: Churn, aliased: bool, seconds: float) -> None:
    """Slots are the adapters themselves, as on a CPU, or copies of them in stacks, as on a GPU."""
    check_no_cross_talk(churn, aliased, seconds)


@pytest.mark.slow
def test_no_cross_talk_under_churn_in_bf16(churn_in_bf16: Churn) -> None:
    check_no_cross_talk(churn_in_bf16, aliased=True, seconds=SECONDS / 10)


def check_no_cross_talk(churn: Churn, aliased: bool, seconds: float) -> None:
    running = Running(churn.settings())
    running.server.service.slots.aliased = aliased
    with running:
        traffic = Traffic(churn, running, seconds)
        traffic.run()

        assert traffic.problems == []
        assert traffic.did_churn()
        assert traffic.changes["client RESOURCE_EXHAUSTED"] <= 0.05 * traffic.answers.total()
        assert running.value("corolla_batch_adapters_bucket", le="8.0") == running.value(
            "corolla_batch_adapters_count"
        )
        residents = running.server.service.adapter_cache.residents()
        assert {resident.rows_in_use for resident in residents} == {0}
        assert sum(r.registered_bytes for r in residents) == running.value("corolla_registered_bytes")
        assert len(running.server.service.slots) == sum(resident.in_slot for resident in residents)
