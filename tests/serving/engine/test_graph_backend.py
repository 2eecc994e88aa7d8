"""Rows of any mixture in one prepared forward; without a GPU its kernels are interpreted."""

import pytest
import torch

from petl_vit.adapter import Adapter
from petl_vit.arena import Arena
from petl_vit.batch import Model, Row, Term
from petl_vit.errors import Unsupported
from petl_vit.executors import kernels
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import TorchBackend
from serving.engine.graph_backend import GraphBackend
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family, relative
from tests.serving.world import Running, World, encoded

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MIXED = ["lora", "ssf", "vpt_deep", "full", "linear", "vqt"]


def backend_of(
    vit: FrozenViT, buckets: tuple[int, ...] = (4,), nbytes: int = 2**26
) -> tuple[GraphBackend, Slots]:
    arena = Arena(vit.arch, nbytes=nbytes, slots=8, dtype=vit.dtype, device=vit.device)
    slots = Slots(vit.device, count=8, max_bytes=nbytes, arena=arena)
    backend = GraphBackend(lambda size: vit, slots, row_buckets=buckets)
    return backend, slots


def eager(vit: FrozenViT) -> TorchBackend:
    backend = TorchBackend(lambda size: vit, Slots(vit.device))
    return backend


def model(*terms: tuple[Adapter, float]) -> Model:
    return Model([Term(adapter=adapter, alpha=alpha) for adapter, alpha in terms])


@pytest.fixture(scope="module")
def vit() -> FrozenViT:
    return family("plain", depth=2)[0].to(device=DEVICE)  # kernels are interpreted slowly


def test_a_mixture_is_what_eager_slices_answer(vit: FrozenViT) -> None:
    images = list(images_of(vit))
    adapters = [adapter_of(name, vit, 0) for name in MIXED]
    rows = [Row(image=i % 3, model=model((adapter, 0.6))) for i, adapter in enumerate(adapters)]
    rows.append(Row(image=2, model=model((adapters[0], 0.5), (adapters[2], 0.3))))
    rows.append(Row(image=1, model=Model([Term(adapter=adapters[0], alpha=(0.2, 0.9))])))
    backend, _ = backend_of(vit)
    for ours, theirs in zip(backend.logits(images, rows), eager(vit).logits(images, rows), strict=True):
        assert relative(ours, theirs) <= 1e-5


def test_other_adapters_methods_and_alphas_prepare_nothing_anew(vit: FrozenViT) -> None:
    images = list(images_of(vit))[:1]
    backend, slots = backend_of(vit, buckets=(2,))
    backend.warm(vit.arch.image_size)
    prepared = backend.captured
    for seed, names in enumerate([("lora", "bitfit"), ("adaptformer", "fact_tk"), ("vpt_deep", "layernorm")]):
        models = [model((adapter_of(name, vit, seed), 0.2 + 0.3 * seed)) for name in names]
        rows = [Row(image=0, model=one) for one in models]
        for ours, theirs in zip(backend.logits(images, rows), eager(vit).logits(images, rows), strict=True):
            assert relative(ours, theirs) <= 1e-5
    assert backend.captured == prepared == 1
    assert slots.evicted == 0


def test_a_slot_that_is_used_again_answers_for_its_new_adapter(vit: FrozenViT) -> None:
    images = list(images_of(vit))[:1]
    adapters = [adapter_of("lora", vit, seed) for seed in range(3)]
    arena = Arena(vit.arch, nbytes=2**24, slots=1, dtype=vit.dtype, device=vit.device)
    slots = Slots(vit.device, count=1, arena=arena)
    backend = GraphBackend(lambda size: vit, slots, row_buckets=(1,))
    for adapter in [*adapters, adapters[0]]:
        rows = [Row(image=0, model=model((adapter, 1.0)))]
        assert relative(backend.logits(images, rows)[0], eager(vit).logits(images, rows)[0]) <= 1e-5
    assert slots.evicted == 3


def test_more_rows_than_the_largest_graph_run_in_parts(vit: FrozenViT) -> None:
    images = list(images_of(vit))[:1]
    adapter = adapter_of("ssf", vit, 0)
    backend, _ = backend_of(vit, buckets=(1, 2))
    rows = [Row(image=0, model=model((adapter, alpha))) for alpha in (0.1, 0.5, 0.9)]
    for ours, theirs in zip(backend.logits(images, rows), eager(vit).logits(images, rows), strict=True):
        assert relative(ours, theirs) <= 1e-5
    assert backend.captured == 2


def test_without_a_gpu_it_is_refused_by_name(vit: FrozenViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "interpreted", lambda: False)
    arena = Arena(vit.arch, nbytes=2**24, slots=1, dtype=vit.dtype, device=torch.device("cpu"))
    with pytest.raises(Unsupported, match="CUDA device") as caught:
        GraphBackend(lambda size: vit, Slots(arena=arena))
    assert caught.value.field == "backend"


def test_a_server_on_graphs_answers_as_one_on_eager_pytorch(world: World) -> None:
    settings = world.settings(
        backend="graph", slots=4, device_bytes=2**24, precision="fp32", device=DEVICE.type
    )
    eagerly = world.settings(precision="fp32", device=DEVICE.type)
    with Running(settings) as ours, Running(eagerly) as theirs:
        with ours.client() as one, theirs.client() as other:
            for route in ("lora", "0.5*lora + 0.5*ssf", "lora:1, full"):
                found, expected = (
                    client.classify([encoded(1)], task="shapes", route=route, probabilities=True).results[0]
                    for client in (one, other)
                )
                wanted = torch.tensor(expected.probabilities)
                assert relative(torch.tensor(found.probabilities), wanted) <= 1e-4
        assert ours.server.service.adapter_cache.nbytes > 0
