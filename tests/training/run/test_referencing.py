"""Every adapter is registered with what it did on held-out images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.collections.references import References
from model_store.format.records import Manifest
from model_store.format.reference import Reference
from model_store.resolution.reference import of_adapter
from model_store.store import Store
from petl_vit.errors import Unreachable
from petl_vit.precision import Precision
from petl_vit.preprocess import normalise
from petl_vit.vit import FrozenViT
from tests.training.conftest import SPEC, imported, recipe, write_npz
from tests.training.run.notes import Notes
from training.data.dataset import align_classes
from training.data.pixels import load_pixels
from training.data.sources import load_dataset
from training.run import probe
from training.run.job import Job, run, run_together


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Manifest]]:
    """`lora` and `ssf`, which were trained together; no test changes them."""
    folder = tmp_path_factory.mktemp("referencing")
    store = Store.open(str(folder / "store"))
    lora = Job(
        backbone=imported(store).name,
        task="digits",
        name="lora",
        data="digits",
        heldout=_heldout(folder),
        limit=60,
        recipe=recipe(),
        runs=folder / "runs",
        measure_precision=Precision.FP32,
    )
    outcomes = run_together(store, [lora, replace(lora, name="ssf", recipe=recipe("ssf"))])
    return store, [outcome.manifest for outcome in outcomes]


def _heldout(folder: Path) -> str:
    return write_npz(folder / "heldout.npz", names=list("0123456789"))


def test_a_registered_adapter_has_a_reference_that_agrees_with_its_metrics(
    registered: tuple[Store, list[Manifest]],
) -> None:
    store, manifests = registered
    assert len(store.references.list()) == 2
    for manifest in manifests:
        reference = of_adapter(store, manifest).reference
        assert reference is not None
        assert reference.route.name == reference.route.text == f"{manifest.name}:1"
        assert reference.route.temperature == manifest.temperature
        assert reference.accuracy == reference.member_accuracies[0] == manifest.metrics["accuracy"]
        assert reference.confidence.mean == pytest.approx(manifest.metrics["confidence"])
        assert reference.data.digest == manifest.training["heldout_digest"]
        assert reference.data.name == manifest.training["heldout"]
        assert reference.images == manifest.training["heldout_images"]
        assert reference.classes == store.tasks.of(manifest).spec.classes
        assert reference.atc["atc_mc"].estimate == pytest.approx(reference.accuracy, abs=1 / reference.images)
        assert reference.precision == manifest.metrics_precision
        assert reference.no_estimate == ""
        assert reference.unanimous == reference.images
        assert reference.base_overrides is not None
        assert abs(manifest.metrics["base_accuracy"] - reference.accuracy) * reference.images <= (
            reference.base_overrides
        )


def test_its_features_are_those_of_the_frozen_backbone(
    registered: tuple[Store, list[Manifest]], vit: FrozenViT
) -> None:
    store, (manifest, _) = registered
    reference = of_adapter(store, manifest).reference
    assert reference is not None
    assert reference.features is not None
    dataset = align_classes(load_dataset(reference.data.name), reference.classes)
    images = normalise(load_pixels(dataset, SPEC), SPEC)
    features = probe.features(vit, [images], lambda n: None).double().numpy()
    assert np.allclose(reference.features.mean, features.mean(axis=0), atol=1e-4)
    assert np.allclose(reference.features.variance, features.var(axis=0), rtol=1e-3, atol=1e-6)


def test_a_reference_that_cannot_be_kept_is_noted_and_the_adapter_stays(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: References, reference: Reference) -> None:
        raise Unreachable("no space is left", field="store")

    monkeypatch.setattr(References, "put", full)
    notes = Notes()
    manifest = run(store, job, notes).manifest
    assert store.adapters.versions("digits", "lora") == [1]
    assert of_adapter(store, manifest).reference is None
    assert any(
        f"{manifest} is registered without a reference for monitoring (store: no space is left)" in note
        for note in notes.notes
    )
