from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import AdapterRef
from petl_vit import methods
from petl_vit.batch import Row
from petl_vit.errors import InvalidInput
from petl_vit.executors.functional import Functional
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.precision import Precision
from petl_vit.preprocess import normalise
from tests.training.answered import said
from tests.training.conftest import SPEC, recipe
from tests.training.measure.conftest import Resolving
from training.data import shifts
from training.data.pixels import load_pixels
from training.data.records import Dataset, Images, Selection
from training.measure import logits as measured
from training.measure.logit_store import LogitStore
from training.measure.logits import Logits, logits_of_routes, logits_under
from training.run.job import Job, run

pytestmark = pytest.mark.numerics


def resolved(loader: Loader, text: str) -> ResolvedRoute:
    return Resolving(loader)(text)


def offline(loader: Loader, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """One adapter's logits by the executor that trains, not the one that serves."""
    manifest = loader.store.adapters.resolve(AdapterRef(name=name), "digits")
    tensors, vit = loader.store.adapters.load(manifest), loader.vit(32)
    method = methods.get(manifest.method).configure(manifest.config)
    features = vit.forward(normalise(pixels, SPEC), Functional(vit, method.edits(vit, tensors)))
    return LinearHead.load(tensors, classes=10, width=vit.arch.width).logits(features).double()


def of(loader: Loader, dataset: Dataset, *texts: str, store: LogitStore | None = None) -> Logits:
    return logits_of_routes(loader, [resolved(loader, text) for text in texts], dataset, store=store)


def test_a_single_adapter_and_an_ensemble_equal_an_offline_recount(loader: Loader, dataset: Dataset) -> None:
    pixels, labels = load_pixels(dataset, SPEC), dataset.labels
    lora, vpt = offline(loader, "lora", pixels), offline(loader, "vpt_deep", pixels)
    single = said(loader, resolved(loader, "lora"), dataset)
    assert single.accuracy == pytest.approx(float((lora.argmax(1) == labels).double().mean()))
    assert single.honesty.confidence == pytest.approx(lora.softmax(1).max(1).values.numpy(), abs=1e-4)
    assert single.honesty.nll == pytest.approx(
        torch.nn.functional.cross_entropy(lora, labels, reduction="none").numpy(), abs=1e-3
    )
    assert (single.agreement == 1).all()
    both = said(loader, resolved(loader, "lora, vpt_deep"), dataset)
    mean = (lora + vpt) / 2
    assert both.accuracy == pytest.approx(float((mean.argmax(1) == labels).double().mean()))
    assert both.honesty.confidence == pytest.approx(mean.softmax(1).max(1).values.numpy(), abs=1e-4)
    votes = torch.stack([lora.argmax(1), vpt.argmax(1)], dim=1)
    agreement = (votes == mean.argmax(1)[:, None]).double().mean(dim=1)
    assert both.agreement == pytest.approx(agreement.numpy())
    assert both.member_accuracies == pytest.approx(
        [single.accuracy, float((vpt.argmax(1) == labels).double().mean())]
    )


def test_a_temperature_changes_the_confidence_alone(loader: Loader, dataset: Dataset) -> None:
    route = resolved(loader, "lora")
    sharp, flat = (said(loader, route, dataset, temperature=t) for t in (0.5, 5.0))
    assert sharp.accuracy == flat.accuracy
    assert sharp.honesty.confidence.mean() > flat.honesty.confidence.mean()


def test_classes_in_another_order_are_matched_by_name(loader: Loader, dataset: Dataset) -> None:
    backwards = replace(dataset, classes=dataset.classes[::-1], labels=9 - dataset.labels)
    route = resolved(loader, "lora, vpt_deep")
    assert said(loader, route, backwards).accuracy == said(loader, route, dataset).accuracy


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
    alone = said(loader, resolved(loader, "backwards/lora"), dataset)
    both = said(loader, resolved(loader, "lora, backwards/lora"), dataset)
    lora = said(loader, resolved(loader, "lora"), dataset)
    assert both.member_accuracies == pytest.approx([lora.accuracy, alone.accuracy])
    assert alone.accuracy > 0.2  # above chance: the labels are matched


def by_fingerprint(dataset: Dataset) -> list[int]:
    return sorted(range(len(dataset)), key=dataset.fingerprints.__getitem__)


def test_a_shift_is_applied_after_resizing_in_an_order_that_the_images_decide(
    loader: Loader, dataset: Dataset
) -> None:
    shifted = logits_of_routes(loader, [resolved(loader, "lora")], dataset, shift=("noise", 5))
    order = by_fingerprint(dataset)
    pixels = shifts.apply(load_pixels(dataset, SPEC)[order], "noise", 5, seed=0)
    expected = offline(loader, "lora", pixels).numpy()
    assert shifted.of(resolved(loader, "lora"))[order, 0] == pytest.approx(expected, abs=1e-3)
    places = list(range(len(dataset)))[::-1]
    backwards = replace(
        dataset,
        images=Selection(images=dataset.images, indices=places),
        labels=dataset.labels.flip(0),
        fingerprints=dataset.fingerprints[::-1],
    )
    again = logits_of_routes(loader, [resolved(loader, "lora")], backwards, shift=("noise", 5))
    for one, other in zip(again.members.values(), shifted.members.values(), strict=True):
        assert one[::-1] == pytest.approx(other, abs=1e-4)


def test_a_set_of_any_size_is_decoded_part_by_part(
    loader: Loader, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, done = of(loader, dataset, "lora, vpt_deep"), list[int]()
    monkeypatch.setattr(measured, "PART", 7)
    route = resolved(loader, "lora, vpt_deep")
    parts = logits_of_routes(loader, [route], dataset, advance=done.append)
    assert sum(done) == len(dataset)
    assert parts.of(route) == pytest.approx(whole.of(route), abs=1e-4)  # fp32 of other numbers of rows


def test_members_that_take_other_images_are_refused_by_name(
    loader: Loader, dataset: Dataset, tmp_path: Path
) -> None:
    larger(loader, "large", tmp_path)
    with pytest.raises(InvalidInput, match=r"'digits' and 'large' prepare images differently") as error:
        resolved(loader, "lora, large/lora")
    assert error.value.field == "route"


def larger(loader: Loader, task: str, folder: Path) -> None:
    """An adapter that takes larger images."""
    job = Job(
        backbone=loader.record.digest,
        task=task,
        name="lora",
        data="digits",
        limit=60,
        image_size=48,
        recipe=recipe(epochs=1),
        runs=folder / "runs",
        measure_precision=Precision.FP32,
    )
    run(loader.store, job)


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


def routes(loader: Loader, texts: Sequence[str] = ROUTES) -> list[ResolvedRoute]:
    return [resolved(loader, text) for text in texts]


def test_routes_that_are_measured_together_are_measured_as_alone(loader: Loader, dataset: Dataset) -> None:
    under, done = (None, ("noise", 3)), list[int]()
    found = logits_under(loader, routes(loader), dataset, under, advance=done.append)
    assert sum(done) == len(under) * len(dataset)
    for shift, together in zip(under, found, strict=True):
        for route in routes(loader):
            alone = logits_of_routes(loader, [route], dataset, shift=shift)
            assert together.of(route) == pytest.approx(alone.of(route), abs=1e-3)


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
    logits_under(loader, routes(loader), replace(dataset, images=images), under)
    assert images.reads == Counter(range(len(dataset)))
    assert shifted == {"noise": 1, "blur": 1}


def test_a_member_of_several_routes_is_computed_once(
    loader: Loader, dataset: Dataset, rows: list[Row]
) -> None:
    of(loader, dataset, *ROUTES)
    assert len({row.model.key for row in rows}) == 4  # lora, vpt_deep, 0.5*lora and base
    assert len(rows) == 4 * len(dataset)


def test_adapters_that_do_not_fit_in_memory_together_are_measured_in_turns(
    loader: Loader, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = of(loader, dataset, *ROUTES)
    monkeypatch.setattr(measured, "_ADAPTER_BYTES", 1)
    images = Counted(dataset.images)
    turns = of(loader, replace(dataset, images=images), *ROUTES)
    assert images.reads == Counter(range(len(dataset)))
    for route in routes(loader):
        assert turns.of(route) == pytest.approx(whole.of(route), abs=1e-3)


def test_routes_that_take_other_images_are_measured_on_their_own_size(
    loader: Loader, dataset: Dataset, tmp_path: Path
) -> None:
    larger(loader, "larger", tmp_path)
    texts = ("lora", "larger/lora", "base", "larger/base")
    together = of(loader, dataset, *texts)
    for route in routes(loader, texts):
        alone = logits_of_routes(loader, [route], dataset)
        assert together.of(route) == pytest.approx(alone.of(route), abs=1e-3)


def test_bf16_is_another_precision(loader: Loader, dataset: Dataset) -> None:
    fast = Loader(loader.store, loader.record, precision=Precision.BF16)
    half, exact = of(fast, dataset, "lora"), of(loader, dataset, "lora")
    route = resolved(loader, "lora")
    gap = np.abs(half.of(route) - exact.of(route)).max()
    assert 0 < gap < 0.05 * np.abs(exact.of(route)).max()
