from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.algebra import AdapterRef
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.batch import Batch, Row
from petl_vit.errors import InvalidInput
from petl_vit.executors.functional import Functional
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.precision import Precision
from petl_vit.preprocess import normalise
from tests.training.conftest import SPEC, imported, recipe
from training.data import shifts
from training.data.dataset import subset
from training.data.pixels import load_pixels
from training.data.records import Dataset, Images
from training.data.sources import load_dataset
from training.measure import evaluation
from training.measure.evaluation import Candidate, measure, measure_all
from training.run.job import Job, run

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
            measure_precision=Precision.FP32,
        )
        run(store, job)
    return Loader(store, store.backbones.get(backbone.digest))


@pytest.fixture
def dataset() -> Dataset:
    return subset(load_dataset("digits"), 60, 0)


def resolved(loader: Loader, text: str, task: str = "digits") -> ResolvedRoute:
    digest = loader.record.digest
    return resolve(parse_route(text), task=task, store=loader.store, backbone_digest=digest)


def logits(loader: Loader, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """One adapter's logits by the executor that trains, not the one that serves."""
    manifest = loader.store.adapters.resolve(AdapterRef(name=name), "digits")
    tensors, vit = loader.store.adapters.load(manifest), loader.vit(32)
    method = methods.get(manifest.method).configure(manifest.config)
    features = vit.forward(normalise(pixels, SPEC), Functional(vit, method.edits(vit, tensors)))
    return LinearHead.load(tensors, classes=10, width=vit.arch.width).logits(features).double()


def test_a_single_adapter_and_an_ensemble_equal_an_offline_recount(loader: Loader, dataset: Dataset) -> None:
    pixels, done = load_pixels(dataset, SPEC), list[int]()
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


def test_a_temperature_changes_the_confidence_alone(loader: Loader, dataset: Dataset) -> None:
    route = resolved(loader, "lora")
    sharp, flat = (measure(loader, route, dataset, temperature=t) for t in (0.5, 5.0))
    assert sharp.accuracy == flat.accuracy
    assert sharp.confidence > flat.confidence


def test_classes_in_another_order_are_matched_by_name(loader: Loader, dataset: Dataset) -> None:
    backwards = replace(dataset, classes=dataset.classes[::-1], labels=9 - dataset.labels)
    route = resolved(loader, "lora, vpt_deep")
    assert measure(loader, route, backwards) == measure(loader, route, dataset)


def test_members_of_tasks_with_another_class_order_are_matched_by_name(
    loader: Loader, dataset: Dataset, tmp_path: Path
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
        measure_precision=Precision.FP32,
    )
    run(loader.store, job)
    alone = measure(loader, resolved(loader, "backwards/lora"), dataset)
    both = measure(loader, resolved(loader, "lora, backwards/lora"), dataset)
    lora = measure(loader, resolved(loader, "lora"), dataset)
    expected = {"digits/lora:1": lora.accuracy, "backwards/lora:1": alone.accuracy}
    assert both.member_accuracies == pytest.approx(expected)
    assert alone.accuracy > 0.2  # above chance: the labels are matched


def test_a_shift_is_applied_after_resizing_and_named(loader: Loader, dataset: Dataset) -> None:
    shifted = measure(loader, resolved(loader, "lora"), dataset, shift=("noise", 5))
    pixels = shifts.apply(load_pixels(dataset, SPEC), "noise", 5, seed=0)
    expected = logits(loader, "lora", pixels)
    assert shifted.data == "digits noise:5"
    assert shifted.accuracy == pytest.approx(float((expected.argmax(1) == dataset.labels).double().mean()))
    assert shifted.confidence == pytest.approx(float(expected.softmax(1).max(1).values.mean()), abs=1e-4)


def test_a_set_of_any_size_is_decoded_part_by_part(
    loader: Loader, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = resolved(loader, "lora, vpt_deep")
    whole = measure(loader, route, dataset)
    monkeypatch.setattr(evaluation, "_IMAGES", 7)
    parts = measure(loader, route, dataset)
    assert replace(parts, confidence=whole.confidence) == whole, "what is counted"
    assert parts.confidence == pytest.approx(whole.confidence, abs=1e-6)  # fp32 of other numbers of rows


def test_members_that_take_other_images_are_refused_by_name(
    loader: Loader, dataset: Dataset, tmp_path: Path
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
        measure_precision=Precision.FP32,
    )
    run(loader.store, job)
    with pytest.raises(InvalidInput, match=r"'digits' and 'large' prepare images differently") as error:
        measure(loader, resolved(loader, "lora, large/lora"), dataset)
    assert error.value.field == "route"


def test_a_set_with_a_class_that_the_task_lacks_is_refused(loader: Loader, dataset: Dataset) -> None:
    other = replace(dataset, classes=("ten", *dataset.classes[1:]))
    with pytest.raises(InvalidInput, match="ten"):
        measure(loader, resolved(loader, "lora"), other)


# Several routes at once

ROUTES = ("lora", "vpt_deep", "0.5*lora", "lora, vpt_deep", "base")


class Counted:
    """Images that count how often each is read."""

    def __init__(self, images: Images) -> None:
        self._images, self.reads = images, Counter[int]()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> torch.Tensor:
        return self._images[index]

    def sized(self, index: int, spec: Preprocess) -> torch.Tensor:
        self.reads[index] += 1
        return self._images.sized(index, spec)


def candidates(loader: Loader, *texts: str) -> list[Candidate]:
    return [Candidate(route=resolved(loader, text)) for text in texts]


def test_routes_that_are_measured_together_are_measured_as_alone(loader: Loader, dataset: Dataset) -> None:
    under, done = (None, ("noise", 3)), list[int]()
    found = measure_all(loader, candidates(loader, *ROUTES), dataset, under=under, advance=done.append)
    assert sum(done) == len(ROUTES) * len(under) * len(dataset)
    for text, of_route in zip(ROUTES, found, strict=True):
        for shift, together in zip(under, of_route, strict=True):
            alone = measure(loader, resolved(loader, text), dataset, shift=shift)
            assert (together.route, together.data, together.images) == (alone.route, alone.data, alone.images)
            assert together.accuracy == pytest.approx(alone.accuracy, abs=1 / len(dataset))
            assert together.confidence == pytest.approx(alone.confidence, abs=1e-4)
            assert together.agreement == pytest.approx(alone.agreement, abs=1 / len(dataset))
            assert together.member_accuracies.keys() == alone.member_accuracies.keys()


def test_images_are_decoded_and_shifted_once_for_all_routes(
    loader: Loader, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted, apply = Counter[str](), shifts.apply

    def counted(images: torch.Tensor, name: str, severity: int, seed: int) -> torch.Tensor:
        shifted[name] += 1
        return apply(images, name, severity, seed)

    monkeypatch.setattr(shifts, "apply", counted)
    images = Counted(dataset.images)
    under = (None, ("noise", 3), ("blur", 1))
    measure_all(loader, candidates(loader, *ROUTES), replace(dataset, images=images), under=under)
    assert images.reads == Counter(range(len(dataset)))
    assert shifted == {"noise": 1, "blur": 1}


def test_a_member_of_several_routes_is_computed_once(
    loader: Loader, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, logits_of = list[Row](), Batch.logits

    def counted(batch: Batch, images: torch.Tensor, some: Sequence[Row]) -> list[torch.Tensor]:
        rows.extend(some)
        return logits_of(batch, images, some)

    monkeypatch.setattr(Batch, "logits", counted)
    measure_all(loader, candidates(loader, *ROUTES), dataset)
    assert len({row.model.key for row in rows}) == 4  # lora, vpt_deep, 0.5*lora and base
    assert len(rows) == 4 * len(dataset)


def test_adapters_that_do_not_fit_in_memory_together_are_measured_in_turns(
    loader: Loader, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure_all(loader, candidates(loader, *ROUTES), dataset)
    monkeypatch.setattr(evaluation, "_ADAPTER_BYTES", 1)
    images = Counted(dataset.images)
    turns = measure_all(loader, candidates(loader, *ROUTES), replace(dataset, images=images))
    assert images.reads == Counter(range(len(dataset)))
    for (one,), (other,) in zip(whole, turns, strict=True):
        assert one.route == other.route
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_routes_that_take_other_images_are_measured_on_their_own_size(
    loader: Loader, dataset: Dataset, tmp_path: Path
) -> None:
    job = Job(
        backbone=loader.record.digest,
        task="larger",
        name="lora",
        data="digits",
        limit=60,
        image_size=48,
        recipe=recipe(epochs=1),
        runs=tmp_path / "runs",
        measure_precision=Precision.FP32,
    )
    run(loader.store, job)
    texts = ("lora", "larger/lora", "base", "larger/base")
    found = measure_all(loader, candidates(loader, *texts), dataset)
    for text, (together,) in zip(texts, found, strict=True):
        alone = measure(loader, resolved(loader, text), dataset)
        assert together.confidence == pytest.approx(alone.confidence, abs=1e-4)


def test_what_is_measured_says_in_which_precision(loader: Loader, dataset: Dataset) -> None:
    fast = Loader(loader.store, loader.record, precision=Precision.BF16)
    route = resolved(loader, "lora")
    half, exact = measure(fast, route, dataset), measure(loader, route, dataset)
    assert (half.precision, exact.precision) == ("bf16", "fp32")
    assert half.confidence == pytest.approx(exact.confidence, abs=0.02)
    assert half.confidence != exact.confidence
