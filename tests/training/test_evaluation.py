from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store import routes
from model_store.loading import Loader
from model_store.resolution import ResolvedRoute, resolve
from model_store.store import Store
from petl_vit import methods
from petl_vit.errors import InvalidInput
from petl_vit.executors import Functional
from petl_vit.heads import LinearHead
from petl_vit.preprocess import normalise
from tests.training.conftest import SPEC, imported, recipe
from training import data, evaluation, shifts
from training.evaluation import measure
from training.job import Job, run

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """A store with two adapters, which no test here changes."""
    folder = tmp_path_factory.mktemp("evaluation")
    store = Store.open(str(folder / "store"))
    backbone = imported(store)
    for method in ("lora", "vpt_deep"):
        job = Job(
            backbone=backbone.digest,
            task="digits",
            name=method,
            data="digits",
            limit=60,
            recipe=recipe(method, epochs=1, learning_rate=1e-2),
            runs=folder / "runs",
        )
        run(store, job)
    return Loader(store, store.backbone(backbone.digest))


@pytest.fixture
def dataset() -> data.Dataset:
    return data.subset(data.load("digits"), 60, 0)


def resolved(loader: Loader, text: str, task: str = "digits") -> ResolvedRoute:
    digest = loader.record.digest
    return resolve(routes.parse(text), task=task, lookup=loader.store, backbone_digest=digest)


def logits(loader: Loader, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """One adapter's logits by the executor that trains, not the one that serves."""
    manifest = loader.store.resolve(routes.AdapterRef(name=name), "digits")
    tensors, vit = loader.store.load_adapter(manifest), loader.vit(32)
    method = methods.get(manifest.method).configure(manifest.config)
    features = vit.forward(normalise(pixels, SPEC), Functional(vit, method.edits(vit, tensors)))
    return LinearHead.load(tensors, classes=10, width=vit.arch.width).logits(features).double()


def test_a_single_adapter_and_an_ensemble_equal_an_offline_recount(
    loader: Loader, dataset: data.Dataset
) -> None:
    pixels, done = data.tensors(dataset, SPEC), list[int]()
    lora, vpt = logits(loader, "lora", pixels), logits(loader, "vpt_deep", pixels)
    single = measure(loader, resolved(loader, "lora"), dataset, advance=done.append)
    assert (single.route, single.data, single.images, sum(done)) == ("lora:1", "digits", 60, 60)
    assert single.accuracy == pytest.approx(float((lora.argmax(1) == dataset.labels).double().mean()))
    assert single.confidence == pytest.approx(float(lora.softmax(1).max(1).values.mean()), abs=1e-4)
    assert single.agreement == 1
    both = measure(loader, resolved(loader, "lora, vpt_deep"), dataset)
    mean = (lora + vpt) / 2
    assert both.accuracy == pytest.approx(float((mean.argmax(1) == dataset.labels).double().mean()))
    assert both.confidence == pytest.approx(float(mean.softmax(1).max(1).values.mean()), abs=1e-4)
    votes = torch.stack([lora.argmax(1), vpt.argmax(1)], dim=1)
    agreement = (votes == mean.argmax(1)[:, None]).double().mean()
    assert both.agreement == pytest.approx(float(agreement))
    assert both.member_accuracies == pytest.approx(
        {
            "lora:1": single.accuracy,
            "vpt_deep:1": float((vpt.argmax(1) == dataset.labels).double().mean()),
        }
    )


def test_a_temperature_changes_the_confidence_alone(loader: Loader, dataset: data.Dataset) -> None:
    route = resolved(loader, "lora")
    sharp, flat = (measure(loader, route, dataset, temperature=t) for t in (0.5, 5.0))
    assert sharp.accuracy == flat.accuracy
    assert sharp.confidence > flat.confidence


def test_classes_in_another_order_are_matched_by_name(loader: Loader, dataset: data.Dataset) -> None:
    backwards = replace(dataset, classes=dataset.classes[::-1], labels=9 - dataset.labels)
    route = resolved(loader, "lora, vpt_deep")
    assert measure(loader, route, backwards) == measure(loader, route, dataset)


def test_members_of_tasks_with_another_class_order_are_matched_by_name(
    loader: Loader, dataset: data.Dataset, tmp_path: Path
) -> None:
    pixels = np.stack([image.permute(1, 2, 0).numpy() for image in dataset.images])  # type: ignore[attr-defined]
    names = np.array(dataset.classes)[::-1].copy()
    np.savez(tmp_path / "backwards.npz", images=pixels, labels=9 - dataset.labels.numpy(), classes=names)
    job = Job(
        backbone=loader.record.digest,
        task="backwards",
        name="lora",
        data=str(tmp_path / "backwards.npz"),
        recipe=recipe(epochs=1),
        runs=tmp_path / "runs",
    )
    run(loader.store, job)
    alone = measure(loader, resolved(loader, "backwards/lora"), dataset)
    both = measure(loader, resolved(loader, "lora, backwards/lora"), dataset)
    lora = measure(loader, resolved(loader, "lora"), dataset)
    expected = {"digits/lora:1": lora.accuracy, "backwards/lora:1": alone.accuracy}
    assert both.member_accuracies == pytest.approx(expected)
    assert alone.accuracy > 0.2  # above chance: the labels are matched


def test_a_shift_is_applied_after_resizing_and_named(loader: Loader, dataset: data.Dataset) -> None:
    shifted = measure(loader, resolved(loader, "lora"), dataset, shift=("noise", 5))
    pixels = shifts.apply(data.tensors(dataset, SPEC), "noise", 5, seed=0)
    expected = logits(loader, "lora", pixels)
    assert shifted.data == "digits noise:5"
    assert shifted.accuracy == pytest.approx(float((expected.argmax(1) == dataset.labels).double().mean()))
    assert shifted.confidence == pytest.approx(float(expected.softmax(1).max(1).values.mean()), abs=1e-4)


def test_a_set_of_any_size_is_decoded_part_by_part(
    loader: Loader, dataset: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = resolved(loader, "lora, vpt_deep")
    whole = measure(loader, route, dataset)
    monkeypatch.setattr(evaluation, "_IMAGES", 7)
    parts = measure(loader, route, dataset)
    assert replace(parts, confidence=whole.confidence) == whole, "what is counted"
    assert parts.confidence == pytest.approx(whole.confidence, abs=1e-6)  # fp32 of other numbers of rows


def test_members_that_take_other_images_are_refused_by_name(
    loader: Loader, dataset: data.Dataset, tmp_path: Path
) -> None:
    job = Job(
        backbone=loader.record.digest,
        task="large",
        name="lora",
        data="digits",
        limit=60,
        image_size=48,
        recipe=recipe(epochs=1),
        runs=tmp_path / "runs",
    )
    run(loader.store, job)
    with pytest.raises(InvalidInput, match=r"'digits' and 'large' prepare images differently") as error:
        measure(loader, resolved(loader, "lora, large/lora"), dataset)
    assert error.value.field == "route"


def test_a_set_with_a_class_that_the_task_lacks_is_refused(loader: Loader, dataset: data.Dataset) -> None:
    other = replace(dataset, classes=("ten", *dataset.classes[1:]))
    with pytest.raises(InvalidInput, match="ten"):
        measure(loader, resolved(loader, "lora"), other)
