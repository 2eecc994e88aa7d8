"""Nothing is measured unawares on images that it was trained on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_store.format.records import BackboneRecord, Draft, TaskRecord, TaskSpec
from model_store.store import Store
from petl_vit import methods
from petl_vit.errors import InvalidInput
from petl_vit.heads import LinearHead
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import random_tensors
from tests.training.conftest import SPEC, write_npz
from tests.training.run.notes import Notes
from training.data.dataset import split_dataset, without
from training.data.learnt import Learnt
from training.data.records import Dataset
from training.data.sources import load_dataset
from training.run import job as jobs
from training.run import soup
from training.run.training_data import TrainingData, unlearnt

CLASSES = tuple("0123456789")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_npz(tmp_path / "data.npz", images=100, names=list(CLASSES))


def published(store: Store, task: TaskRecord, name: str, vit: FrozenViT, trained_on: Dataset | None) -> None:
    """An adapter that says it was trained on images, without the training."""
    config = methods.get("bitfit").configure({})
    draft = Draft.of(
        task=task.spec.name,
        name=name,
        method="bitfit",
        config={},
        backbone_digest=task.spec.backbone_digest,
        task_digest=task.digest,
        training={} if trained_on is None else TrainingData(dataset=trained_on, limit=None).record(),
    )
    if trained_on is not None:
        TrainingData(dataset=trained_on, limit=None).remember(store)
    tensors = {n: t * 0.01 for n, t in random_tensors(config, vit, ord(name[0])).items()}
    store.adapters.publish(draft, tensors | store.tasks.load_base_head(task))


@pytest.fixture
def task(store: Store, backbone: BackboneRecord, base_head: LinearHead) -> TaskRecord:
    spec = TaskSpec.of(name="digits", classes=CLASSES, preprocess=SPEC, backbone_digest=backbone.digest)
    return store.tasks.put(spec, base_head.tensors(), {"data_digests": []})


@pytest.fixture
def mixing(task: TaskRecord, data: str) -> soup.Job:
    return soup.Job(
        backbone=task.spec.backbone_digest,
        task="digits",
        name="mixed",
        members="split, near, other",
        data=data,
        precision=Precision.FP32,
    )


def test_a_soup_is_not_chosen_on_images_that_a_member_has_learnt(
    store: Store, task: TaskRecord, vit: FrozenViT, mixing: soup.Job, data: str
) -> None:
    whole = load_dataset(data)
    train, heldout = split_dataset(whole, holdout=0.2, seed=0)
    published(store, task, "split", vit, train)
    published(store, task, "near", vit, _first(heldout, 3))
    published(store, task, "other", vit, split_dataset(whole, holdout=0.2, seed=1)[0])
    with pytest.raises(
        InvalidInput, match=r"data: \d+ of the \d+ held-out images are .* other:1.*leave"
    ) as error:
        soup.run(store, mixing)
    assert "split:1" not in str(error.value)
    notes = Notes()
    manifest = soup.run(store, replace(mixing, members="split, near"), notes).manifest
    assert f"3 of the {len(heldout)} held-out images are training images of near:1" in notes.notes[0]
    assert manifest.training["heldout_images"] == len(heldout) - 3
    learnt = store.images.of(manifest.training)  # of the soup, too
    assert learnt is not None
    assert set(train.fingerprints) <= learnt


def test_a_soup_over_members_of_which_nothing_is_recorded_says_so(
    store: Store, task: TaskRecord, vit: FrozenViT, mixing: soup.Job
) -> None:
    published(store, task, "split", vit, None)
    published(store, task, "near", vit, None)
    notes = Notes()
    soup.run(store, replace(mixing, members="split, near"), notes)
    assert notes.notes == [
        "it is not recorded which images split:1, near:1 learnt, so they may be among these"
    ]


def test_equal_training_and_held_out_images_are_refused_before_anything_is_trained(
    store: Store, job: jobs.Job, data: str, tmp_path: Path
) -> None:
    copy = write_npz(tmp_path / "copy.npz", images=100, names=list(CLASSES))
    for heldout in (data, copy):
        with pytest.raises(InvalidInput, match="heldout: 100 of the 100 held-out images are training images"):
            jobs.run(store, replace(job, data=data, heldout=heldout, limit=None))
    assert store.tasks.list() == []


def test_no_adapter_is_measured_on_what_the_base_head_was_fitted_to(
    store: Store, job: jobs.Job, backbone: BackboneRecord, base_head: LinearHead, data: str
) -> None:
    spec = TaskSpec.of(name="digits", classes=CLASSES, preprocess=SPEC, backbone_digest=backbone.digest)
    fitted = TrainingData(dataset=load_dataset(data), limit=None)
    fitted.remember(store)
    store.tasks.put(spec, base_head.tensors(), fitted.record())
    with pytest.raises(InvalidInput, match=r"held-out images are training images of base.*another --task"):
        jobs.run(store, replace(job, data=data, heldout=None, limit=None))


def test_a_base_head_of_which_nothing_is_recorded_is_said(
    store: Store, job: jobs.Job, backbone: BackboneRecord, base_head: LinearHead
) -> None:
    spec = TaskSpec.of(name="digits", classes=CLASSES, preprocess=SPEC, backbone_digest=backbone.digest)
    store.tasks.put(spec, base_head.tensors())
    notes = Notes()
    jobs.run(store, replace(job, recipe=job.recipe.model_copy(update={"epochs": 1})), notes)
    assert any(
        "it is not recorded which images the base head of task digits was fitted to" in n for n in notes.notes
    )


def test_what_an_adapter_held_out_is_measured_again_however_little_of_the_split_it_is(data: str) -> None:
    heldout = split_dataset(load_dataset(data), holdout=0.2, seed=1)[1]
    rest = Learnt(name="base", images=frozenset(heldout.fingerprints[5:]))
    notes = Notes()
    with pytest.raises(InvalidInput, match="held-out images are training images of base; try"):
        unlearnt(heldout, [rest], notes.note, field="holdout", remedy="try", least=0.5)
    held = without(heldout, rest.images or frozenset())
    own = Learnt(name="lora:1", images=frozenset(), heldout_digest=held.digest)
    left = unlearnt(heldout, [rest, own], notes.note, field="holdout", remedy="try", least=0.5)
    assert left.fingerprints == held.fingerprints
    assert "they are left out, 5 remain" in notes.notes[0]


def _first(dataset: Dataset, n: int) -> Dataset:
    kept = frozenset(dataset.fingerprints[:n])
    return replace(
        dataset,
        labels=dataset.labels[torch.arange(n)],
        fingerprints=dataset.fingerprints[:n],
        digest="".join(sorted(kept))[:16] * 4,
    )
