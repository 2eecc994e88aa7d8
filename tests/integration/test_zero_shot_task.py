"""A zero-shot task is imported, trained, interpolated and measured, each by the code that people run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from corolla.commands.tasks import tasks
from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from model_store.sources import backbones
from model_store.store import Store
from petl_vit.batch import Batch, Row
from petl_vit.precision import Precision
from petl_vit.preprocess import normalise
from tests.training.answered import said
from training.data.dataset import split_dataset, subset
from training.data.pixels import load_pixels
from training.data.sources import load_dataset
from training.measure.scores import Scored
from training.run.job import Job, run
from training.run.recipe import Recipe

CLASSES = 10
WIDTH, SHARED = 192, 16


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """A tiny random CLIP, its zero-shot task of the ten digits, and two adapters trained for it."""
    folder = tmp_path_factory.mktemp("zero-shot")
    store = Store.open(str(folder / "store"))
    request = backbones.Request(image_size=32, options={"depth": 2, "embed_dim": WIDTH, "num_heads": 3})
    found = backbones.read("random:vit_base_patch16_clip_224", request)
    backbone = store.backbones.put("clip", found.config, found.tensors, found.source)
    _import(folder, store)
    for name, head_init in (("lora", "probe"), ("fresh", "random")):
        recipe = Recipe.of(
            method="lora", learning_rate=1e-3, epochs=1, batch_size=16, head_init=head_init, drop_path=0.0
        )
        job = Job(
            backbone="clip",
            task="digits",
            name=name,
            data="digits",
            limit=60,
            recipe=recipe,
            runs=folder / "runs",
            measure_precision=Precision.FP32,
        )
        run(store, job)
    return Loader(store, backbone)


def _import(folder: Path, store: Store) -> None:
    generator = torch.Generator().manual_seed(0)
    file, names = folder / "digits.safetensors", folder / "digits.txt"
    save_file(
        {
            "class_embeddings": torch.randn(CLASSES, SHARED, generator=generator),
            "projection": torch.randn(WIDTH, SHARED, generator=generator),
        },
        file,
    )
    names.write_text("\n".join(reversed(load_dataset("digits").classes)), encoding="utf-8")
    words = ["import", "digits", "--backbone", "clip", "--embeddings", str(file), "--classes", str(names)]
    result = CliRunner().invoke(tasks, [*words, "--store", str(store)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "10 classes, zero-shot" in result.output


def resolved(loader: Loader, text: str) -> ResolvedRoute:
    digest = loader.record.digest
    return resolve(parse_route(text), task="digits", store=loader.store, backbone_digest=digest)


def logits(loader: Loader, text: str) -> Tensor:
    """[n, C] of a route's one member on some digits, as they are served."""
    route = resolved(loader, text)
    spec = route.task.spec.preprocess
    inputs = normalise(load_pixels(subset(load_dataset("digits"), 20, 0), spec), spec)
    (model,) = loader.models(route)
    rows = [Row(image=i, model=model) for i in range(len(inputs))]
    return torch.stack(Batch(loader.vit(spec.image_size)).logits(inputs, rows))


def measured(loader: Loader, text: str) -> Scored:
    return said(loader, resolved(loader, text), subset(load_dataset("digits"), 60, 0))


def test_training_starts_from_the_imported_task_and_makes_no_probe(loader: Loader) -> None:
    (task,) = loader.store.tasks.list()
    assert task.spec.classes == tuple(reversed(load_dataset("digits").classes))
    for name in ("lora", "fresh"):
        manifest = loader.store.adapters.manifest("digits", name, 1)
        assert manifest.task_digest == task.digest
        assert set(loader.store.adapters.load(manifest)) > {"head.projection", "head.weight", "head.bias"}


def test_all_tensors_of_the_head_are_trained(loader: Loader) -> None:
    (task,) = loader.store.tasks.list()
    base = loader.store.tasks.load_base_head(task)
    trained = loader.store.adapters.load(loader.store.adapters.manifest("digits", "lora", 1))
    for name, tensor in base.items():
        assert not torch.equal(trained[name], tensor), name
    assert float((trained["head.weight"] - base["head.weight"]).abs().max()) < 1  # it started there


def test_a_random_start_draws_the_classifier_and_keeps_the_projection(loader: Loader) -> None:
    (task,) = loader.store.tasks.list()
    base = loader.store.tasks.load_base_head(task)
    trained = loader.store.adapters.load(loader.store.adapters.manifest("digits", "fresh", 1))
    assert trained["head.weight"].abs().max() < 1 < base["head.weight"].abs().max()
    assert torch.allclose(trained["head.projection"], base["head.projection"], atol=0.02)


def test_wise_at_0_is_exactly_the_zero_shot_classifier(loader: Loader) -> None:
    zero_shot = logits(loader, "base")
    for name in ("lora", "fresh"):
        assert torch.equal(logits(loader, f"0*{name}"), zero_shot)
        assert not torch.allclose(logits(loader, name), zero_shot, rtol=1e-2, atol=1e-1)
    at_zero, base = measured(loader, "0*lora"), measured(loader, "base")
    assert at_zero.accuracy == base.accuracy
    assert (at_zero.honesty.confidence == base.honesty.confidence).all()


def test_the_manifest_and_the_evaluation_agree_on_the_zero_shot_accuracy(loader: Loader) -> None:
    _, heldout = split_dataset(load_dataset("digits"), holdout=0.2, seed=0)
    metrics = loader.store.adapters.manifest("digits", "lora", 1).metrics
    for route, metric in (("base", "base_accuracy"), ("lora", "accuracy")):
        assert said(loader, resolved(loader, route), heldout).accuracy == pytest.approx(metrics[metric])


@pytest.mark.parametrize("combine", [lambda a, b: f"0.5*{a} + 0.5*{b}", lambda a, b: f"0.3*{a}"])
def test_sums_of_its_adapters_answer(loader: Loader, combine: Callable[[str, str], str]) -> None:
    found = logits(loader, combine("lora", "fresh"))
    assert found.shape == (20, CLASSES)
    assert found.isfinite().all()
