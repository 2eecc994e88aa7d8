"""Adapters served in bf16 are compared with fp32 once they are loaded, and do not stay where it matters."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model, Row, Term
from petl_vit.errors import Corrupt, Unsupported
from petl_vit.precision import Precision
from petl_vit.slots import Slots
from serving.client.admin import AdminClient
from serving.engine.backend import TorchBackend
from serving.engine.precision import Fallback, PrecisionCheck
from serving.registry.adapter_cache import AdapterCache
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family
from tests.serving.world import WAIT_S, Running, World, encoded, until


class Place:
    """Where adapters are in memory: what was exchanged and withdrawn."""

    def __init__(self) -> None:
        self.exchanged: list[Adapter] = []
        self.withdrawn: list[str] = []

    def exchange(self, adapter: Adapter) -> None:
        self.exchanged.append(adapter)

    def withdraw(self, digest: str) -> None:
        self.withdrawn.append(digest)


class Results:
    """What was reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float | None]] = []

    def precision_checked(self, result: str, difference: float | None) -> None:
        self.seen.append((result, difference))


class NoMetrics:
    def set_registered(self, adapters: int, size: int) -> None: ...

    def set_slots(self, adapters: int, size: int) -> None: ...

    def adapter_loaded(self, seconds: float) -> None: ...

    def adapter_evicted(self) -> None: ...


class Checked:
    """A check over a store, with what it does on record."""

    def __init__(self, world: World, fallback: Fallback = "fp32") -> None:
        self.world, self.place, self.results = world, Place(), Results()
        self.fast = Loader(world.store, world.backbone, precision=Precision.BF16)
        self.check = PrecisionCheck(self.fast, fallback=fallback, metrics=self.results)

    def term(self, name: str) -> ResolvedTerm:
        return self.world.resolve(name).members[0].terms[0]

    def compared(self, count: int) -> list[str]:
        until(lambda: len(self.results.seen) >= count)
        return [result for result, _ in self.results.seen]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.precision._GATHER_S", 0.0)


@pytest.fixture
def checked(world: World) -> Iterator[Checked]:
    made = Checked(world)
    yield made
    made.check.close()


def test_an_adapter_is_compared_once_however_often_it_is_loaded(checked: Checked) -> None:
    checked.check.start(checked.place)
    term = checked.term("lora")
    assert checked.check.difference(term.digest) is None

    for _ in range(3):
        assert checked.check.adapter(term).exact_on is None
    checked.check.adapter(checked.term("ssf"))

    assert checked.compared(2) == ["within", "within"]
    found = checked.check.difference(term.digest)
    assert found is not None
    assert 0 < found < 0.05
    assert not checked.place.exchanged


def test_what_was_loaded_before_the_start_is_compared_after_it(checked: Checked) -> None:
    checked.check.adapter(checked.term("lora"))
    checked.check.start(checked.place)
    assert checked.compared(1) == ["within"]


def test_one_that_changes_too_much_is_exchanged_for_its_form_in_fp32(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.precision.TOLERANCE", 0.0)
    checked.check.start(checked.place)
    term = checked.term("lora")

    checked.check.adapter(term)
    assert checked.compared(1) == ["beyond"]
    until(lambda: bool(checked.place.exchanged))

    (exact,) = checked.place.exchanged
    assert exact.digest == term.digest
    for adapter in (exact, checked.check.adapter(term)):  # also when it is loaded once more
        assert adapter.exact_on is not None
        assert adapter.exact_on.product_dtype == torch.float32


def test_one_that_changes_too_much_is_refused_where_that_is_the_setting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.precision.TOLERANCE", 0.0)
    checked = Checked(world, "refuse")
    checked.check.start(checked.place)
    try:
        term = checked.term("lora")
        checked.check.adapter(term)
        until(lambda: checked.place.withdrawn == [term.digest])
        with pytest.raises(
            Unsupported, match=r"bf16 changes logits of shapes/lora:2 by .*--bf16-fallback fp32"
        ):
            checked.check.adapter(term)
    finally:
        checked.check.close()


@pytest.mark.parametrize("fallback", ["fp32", "refuse"])
def test_one_that_is_loaded_while_its_comparison_ends_does_not_stay_in_bf16(
    world: World, monkeypatch: pytest.MonkeyPatch, fallback: Fallback
) -> None:
    monkeypatch.setattr("serving.engine.precision.TOLERANCE", 0.0)
    checked = Checked(world, fallback)
    loading, compared = threading.Event(), threading.Event()

    class Slow:
        """Loads in bf16, and goes on when the comparison is over."""

        def adapter(self, term: ResolvedTerm) -> Adapter:
            adapter = checked.check.adapter(term)
            loading.set()
            assert compared.wait(WAIT_S)
            return adapter

    cache = AdapterCache(
        Slow(), slots=Slots(), max_bytes=2**30, metrics=NoMetrics(), outdated=checked.check.outdated
    )
    with cache.lease(world.resolve("lora")) as lease:
        assert loading.wait(WAIT_S)
        checked.check.start(cache)
        checked.compared(1)
        checked.check.close()  # waits until the comparison is over and what it says is done
        compared.set()
        if fallback == "refuse":
            with pytest.raises(Unsupported, match="bf16 changes logits of shapes/lora:2"):
                lease.models()
        else:
            (model,) = lease.models()
            assert model.exact_on is not None
    assert [resident.exact for resident in cache.residents()] == ([True] if fallback == "fp32" else [])
    cache.close()


def test_one_that_cannot_be_compared_is_counted_and_the_next_one_is_compared(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, load = checked.term("lora"), Loader.adapter

    def adapter(loader: Loader, term: ResolvedTerm) -> Adapter:
        if term.digest == broken.digest and loader.precision is Precision.FP32:
            raise Corrupt("its file is damaged", field="tensors")
        return load(loader, term)

    monkeypatch.setattr(Loader, "adapter", adapter)
    checked.check.start(checked.place)
    for name in ("lora", "ssf"):
        checked.check.adapter(checked.term(name))
    assert checked.compared(2) == ["failed", "within"]
    assert checked.check.difference(broken.digest) is None


def test_the_backbone_in_fp32_leaves_memory_when_nothing_is_left_to_compare(
    checked: Checked,
) -> None:
    checked.check.start(checked.place)
    checked.check.adapter(checked.term("lora"))
    checked.compared(1)
    until(lambda: not checked.check.holds_exact)


def test_rows_that_need_fp32_run_beside_those_in_bf16() -> None:
    vit, _ = family("plain")
    fast = vit.in_precision(Precision.BF16)
    images = list(images_of(vit))
    loaded = adapter_of("lora", vit)
    exact = Adapter(**(vars(loaded) | {"digest": "exact", "exact_on": vit}))
    backend, alone = TorchBackend(lambda size: fast, Slots()), TorchBackend(lambda size: vit, Slots())
    models = [Model([Term(adapter=one)]) for one in (exact, adapter_of("ssf", vit), exact)]

    found = backend.logits(images, [Row(image=i, model=model) for i, model in enumerate(models)])

    expected = alone.logits(images, [Row(image=i, model=model) for i, model in enumerate(models)])
    errors = [float((z - e).norm() / e.norm()) for z, e in zip(found, expected, strict=True)]
    assert errors[0] <= 1e-6
    assert errors[2] <= 1e-6
    assert 1e-5 < errors[1] < 5e-2  # in bf16, or the others would show nothing


def test_a_server_in_bf16_answers_in_fp32_where_it_has_to_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("serving.engine.precision.TOLERANCE", 0.0)
    with Running(world.settings(precision="fp32")) as server, server.client() as client:
        expected = client.classify([encoded(1)], route="lora", task="shapes").results[0]
    with Running(world.settings(precision="bf16")) as server, server.client() as client:
        admin = AdminClient(client)
        admin.pin_adapter("lora", task="shapes")
        until(lambda: any(state.exact for state in admin.list_adapters(resident_only=True).adapters))
        found = client.classify([encoded(1)], route="lora", task="shapes").results[0]
        (state,) = (s for s in admin.list_adapters(resident_only=True).adapters if s.name == "shapes/lora:2")
        assert server.value("corolla_precision_checks_total", result="beyond") >= 1
    assert state.pinned
    assert state.bf16_difference > 0
    shown = {top.class_name: top.probability for top in expected.top}
    assert all(top.probability == pytest.approx(shown[top.class_name], abs=1e-5) for top in found.top)
