"""Every adapter is registered with what it did on held-out images."""

from dataclasses import replace

import numpy as np
import pytest

from model_store.collections.references import References
from model_store.format.reference import Reference
from model_store.resolution.loading import Loader
from model_store.resolution.reference import of_adapter
from model_store.store import Store
from petl_vit.errors import Unreachable
from petl_vit.preprocess import normalise
from petl_vit.vit import FrozenViT
from tests.training.conftest import SPEC, recipe
from tests.training.run.notes import Notes
from training.data.dataset import align_classes
from training.data.pixels import load_pixels
from training.data.sources import load_dataset
from training.run import probe
from training.run.job import Job, run, run_together


def test_a_registered_adapter_has_a_reference_that_agrees_with_its_metrics(store: Store, job: Job) -> None:
    manifest = run(store, job).manifest
    (reference,) = store.references.list()
    assert of_adapter(store, manifest).reference == reference
    assert (reference.route.name, reference.route.text) == ("lora:1", "lora:1")
    assert reference.route.temperature == manifest.temperature
    assert reference.accuracy == reference.member_accuracies[0] == manifest.metrics["accuracy"]
    assert reference.confidence.mean == pytest.approx(manifest.metrics["confidence"])
    assert reference.data.digest == manifest.training["heldout_digest"]
    assert (reference.data.name, reference.images) == (job.heldout, manifest.training["heldout_images"])
    assert reference.classes == store.tasks.of(manifest).spec.classes
    assert reference.atc["atc_mc"].estimate == pytest.approx(reference.accuracy, abs=1 / reference.images)
    assert reference.precision == manifest.metrics_precision
    assert reference.no_estimate == ""


def test_its_features_are_those_of_the_frozen_backbone(store: Store, job: Job, vit: FrozenViT) -> None:
    manifest = run(store, job).manifest
    statistics = store.references.list()[0].features
    assert statistics is not None
    assert job.heldout is not None
    dataset = align_classes(load_dataset(job.heldout), store.tasks.of(manifest).spec.classes)
    images = normalise(load_pixels(dataset, SPEC), SPEC)
    features = probe.features(vit, [images], lambda n: None).double().numpy()
    assert np.allclose(statistics.mean, features.mean(axis=0), atol=1e-4)
    assert np.allclose(statistics.variance, features.var(axis=0), rtol=1e-3, atol=1e-6)


def test_adapters_that_are_trained_together_have_a_reference_each(store: Store, job: Job) -> None:
    ssf = replace(job, name="ssf", recipe=recipe("ssf"))
    outcomes = run_together(store, [job, ssf])
    found = [of_adapter(store, outcome.manifest).reference for outcome in outcomes]
    for reference, outcome in zip(found, outcomes, strict=True):
        assert reference is not None
        assert reference.accuracy == outcome.manifest.metrics["accuracy"]
    assert len(store.references.list()) == 2


def test_a_reference_that_cannot_be_kept_is_noted_and_the_adapter_stays(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: References, reference: Reference) -> None:
        raise Unreachable("no space is left", field="store")

    monkeypatch.setattr(References, "put", full)
    notes = Notes()
    manifest = run(store, job, notes).manifest
    assert store.adapters.versions("digits", "lora") == [1]
    assert any(
        f"{manifest} is registered without a reference for monitoring (store: no space is left)" in note
        for note in notes.notes
    )


def test_a_loader_needs_no_reference(store: Store, job: Job) -> None:
    """An older store has none: nothing but monitoring asks for them."""
    manifest = run(store, job).manifest
    for reference in store.references.list():
        store.references.remove(*(t.digest for m in reference.route.members for t in m.terms))
    assert of_adapter(store, manifest).reference is None
    assert Loader(store, store.backbones.get(job.backbone)).vit(32).arch.width == 192
