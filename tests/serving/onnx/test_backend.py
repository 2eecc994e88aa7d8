"""ONNX Runtime answers as PyTorch does, whatever shares a run."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch

from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Features, Model, Row, Term
from petl_vit.errors import CorollaError, InvalidInput, Overloaded, Unsupported
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import VitOf
from serving.onnx import session as onnx_session
from serving.onnx.backend import OnnxBackend
from serving.onnx.graph import Mixture, recorded
from serving.server import Server
from tests.petl_vit.adapters import NAMES, adapter_of, images_of
from tests.petl_vit.backbones import FAMILIES, family, relative
from tests.serving.world import METHODS, Running, World, encoded

pytestmark = pytest.mark.onnx

LOOSE = ("full", "selective", "vpt_shallow", "vqt")


def backend_of(vit: FrozenViT, slots: Slots | None = None) -> OnnxBackend:
    return backend_over(lambda size: vit, slots)


def backend_over(vit_of: VitOf, slots: Slots | None = None) -> OnnxBackend:
    return OnnxBackend(vit_of, Slots(aliased=False) if slots is None else slots, threads=1)


def wise(adapter: Adapter, alpha: float = 1.0) -> Model:
    return Model([Term(adapter=adapter, alpha=alpha)])


def rows_of(models: Sequence[Model], images: int = 3) -> list[Row]:
    return [Row(image=i % images, model=model) for i, model in enumerate(models)]


def check(vit: FrozenViT, backend: OnnxBackend, models: Sequence[Model]) -> None:
    images, rows = images_of(vit), rows_of(models)

    found = backend.logits(list(images), rows)

    for z, expected in zip(found, Batch(vit).logits(images, rows), strict=True):
        assert z.is_cpu
        assert relative(z, expected) <= 1e-4


def runs_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each run of a session has, from now on."""
    counted: list[int] = []
    features = onnx_session.Session.features

    def counting(self, images, rows, chosen, banks):  # type: ignore[no-untyped-def]
        counted.append(len(rows))
        return features(self, images, rows, chosen, banks)

    monkeypatch.setattr(onnx_session.Session, "features", counting)
    return counted


def made(caplog: pytest.LogCaptureFixture) -> int:
    return sum("made a graph" in record.getMessage() for record in caplog.records)


# Answers


@pytest.mark.parametrize("kind", FAMILIES)
def test_methods_of_every_kind_of_edit_in_one_run_are_what_they_are_in_pytorch(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit, _ = family(kind, depth=1)
    adapters = [adapter_of(name, vit) for name in ("lora", "difffit", "convpass", "vpt_deep")]
    counted = runs_of(monkeypatch)

    check(vit, backend_of(vit), [wise(adapter, alpha) for adapter in adapters for alpha in (1.0, 0.3)])

    assert counted == [2 * len(adapters)]


@pytest.mark.slow
def test_all_methods_share_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    vit, _ = family("plain", depth=2)
    stacking = [adapter_of(name, vit) for name in NAMES if name not in LOOSE]
    counted = runs_of(monkeypatch)

    check(vit, backend_of(vit), [wise(adapter, alpha) for adapter in stacking for alpha in (1.0, 0.3)])

    assert counted == [2 * len(stacking)]


def test_mixed_rows_sums_and_frozen_rows_share_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    vit, _ = family("plain", depth=2)
    lora, other = (adapter_of("lora", vit, seed) for seed in (0, 1))
    ssf, prompts = adapter_of("ssf", vit), adapter_of("vpt_deep", vit)
    summed = Model([Term(adapter=lora, alpha=0.5), Term(adapter=prompts, alpha=0.2)])
    twice = Model([Term(adapter=other, alpha=0.4), Term(adapter=lora, alpha=-0.2)])
    models = [wise(lora), wise(ssf, 0.3), wise(prompts), summed, twice, wise(lora, 0.0), wise(other)]
    counted = runs_of(monkeypatch)

    check(vit, backend_of(vit), models)

    assert counted == [len(models)]


@pytest.mark.parametrize("name", LOOSE)
def test_what_stacks_with_nothing_runs_in_pytorch_beside_the_rest(name: str) -> None:
    vit, _ = family("plain", depth=2)
    loose, lora = adapter_of(name, vit), adapter_of("lora", vit)
    summed = Model([Term(adapter=loose, alpha=0.5), Term(adapter=lora, alpha=(0.0, 0.8))])

    check(vit, backend_of(vit), [wise(lora), wise(loose, 0.4), summed, wise(lora, 0.5)])


def test_features_are_answered_too() -> None:
    vit, _ = family("plain", depth=2)
    lora = adapter_of("lora", vit)

    check(vit, backend_of(vit), [Features([Term(adapter=lora)]), wise(lora)])


def test_every_image_size_has_graphs_of_its_own() -> None:
    vit, _ = family("plain", depth=2)
    other = FrozenViT(vit.config, dict(vit.params), image_size=48)
    vits = {one.arch.image_size: one for one in (vit, other)}
    backend = backend_over(vits.__getitem__)

    for one in (vit, other):
        backend.warm(one.arch.image_size)
        check(one, backend, [wise(adapter_of("lora", one), 0.5)])


# Graphs


def test_adapters_of_one_form_need_one_graph_however_they_come_and_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    vit, _ = family("plain", depth=2)
    loras = [adapter_of("lora", vit, seed) for seed in range(7)]
    slots = Slots(count=3, aliased=False)
    backend = backend_of(vit, slots)

    for first in (0, 2, 4, 1, 3):
        check(vit, backend, [wise(lora, 0.7) for lora in loras[first : first + 3]])

    assert slots.evicted > 3
    assert made(caplog) == 1


def test_a_mixed_graph_grows_and_serves_what_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    vit, _ = family("plain", depth=2)
    lora, ssf, bitfit = (wise(adapter_of(name, vit)) for name in ("lora", "ssf", "bitfit"))
    backend = backend_of(vit)

    for models, graphs in (
        ([lora, ssf], 1),
        ([ssf, bitfit], 2),
        ([bitfit, lora], 2),
        ([lora, ssf, bitfit], 2),
        ([ssf], 3),
        ([ssf, ssf], 3),
    ):
        check(vit, backend, models)
        assert made(caplog) == graphs


def test_what_is_no_longer_in_a_slot_leaves_the_next_graph() -> None:
    vit, _ = family("plain", depth=2)
    lora, ssf, bitfit = (adapter_of(name, vit) for name in ("lora", "ssf", "bitfit"))
    slots = Slots(aliased=False)
    backend = backend_of(vit, slots)
    check(vit, backend, [wise(lora), wise(ssf)])
    slots.leave(lora.digest)

    check(vit, backend, [wise(ssf), wise(bitfit)])

    both = Counter((ssf.edits.form, bitfit.edits.form))
    mixed = backend.of_size(vit.arch.image_size).session(both, {}, ())
    assert {form.form for form in mixed.mixture.forms} == {ssf.edits.form, bitfit.edits.form}


def test_a_graph_keeps_no_adapter_in_memory_and_holds_no_weights() -> None:
    vit, _ = family("plain", depth=2)
    edits = adapter_of("lora", vit).edits
    mixture = Mixture.of({edits.form: 2}, {edits.form: edits})

    assert all(t.is_meta for form in mixture.forms for t in form.all_tensors())
    assert len(recorded(vit, mixture)) < sum(p.nbytes for p in vit.params.values()) / 2


# Bad surroundings


def test_a_gpu_that_it_cannot_use_is_refused_by_name() -> None:
    """This wheel has the CUDA provider; on a machine without a GPU it goes on on the CPU by itself."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    vit, _ = family("plain", depth=2)

    with pytest.raises(Unsupported, match="cannot use the GPU") as caught:
        onnx_session.opened(recorded(vit, Mixture.of({}, {})), torch.device("cuda"))
    assert caught.value.field == "device"
    assert "--backend torch" in str(caught.value)


def test_without_onnx_runtime_the_start_names_the_extra(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(CorollaError, match="not installed") as caught:
        Server(world.settings(backend="onnx"))
    assert "corolla[onnx]" in str(caught.value)


def test_bf16_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="fp32") as caught:
        Server(world.settings(backend="onnx", precision="bf16"))
    assert caught.value.field == "precision"


def test_more_adapters_than_slots_are_refused_and_the_next_are_served() -> None:
    vit, _ = family("plain", depth=2)
    loras = [adapter_of("lora", vit, seed) for seed in range(2)]
    backend = backend_of(vit, Slots(count=1, aliased=False))

    with pytest.raises(Overloaded, match="slots"):
        backend.logits(list(images_of(vit)), rows_of([wise(lora) for lora in loras]))
    check(vit, backend, [wise(loras[1])])


def test_no_memory_is_said_as_the_engine_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vit, _ = family("plain", depth=2)
    session = onnx_session.Session(vit, Mixture.of({}, {}), threads=1)

    def fail(binding: object) -> None:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")

    monkeypatch.setattr(session.runtime, "run_with_iobinding", fail)
    with pytest.raises(MemoryError, match="BFCArena"):
        session.features(images_of(vit), torch.arange(3), [[], [], []], {})


# Served


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Running]:
    with Running(world.settings(backend="onnx", slots=3)) as running:
        yield running


@pytest.fixture(scope="module")
def on_torch(world: World) -> Iterator[Running]:
    with Running(world.settings(precision="fp32")) as running:
        yield running


def test_a_server_answers_mixed_routes_as_one_on_pytorch(served: Running, on_torch: Running) -> None:
    """Three slots for all adapters, so that they come and go."""
    names = [name for name in METHODS if name in ("lora", "ssf", "vpt-deep", "full", "linear")]
    routes = [*names, "0.5*lora + 0.5*ssf", "lora, ssf, 0.5*vpt-deep", "best", "lora:1, full"]
    images = [encoded(seed) for seed in range(2)]
    with served.client() as ours, on_torch.client() as theirs:
        for route in routes:
            answers, expected = (
                client.classify(images, task="shapes", route=route, probabilities=True)
                for client in (ours, theirs)
            )
            for one, other in zip(answers.results, expected.results, strict=True):
                assert one.top[0].class_name == other.top[0].class_name
                found, wanted = (torch.tensor(result.probabilities) for result in (one, other))
                assert relative(found, wanted) <= 1e-4
    assert served.server.service.slots.evicted > 0
