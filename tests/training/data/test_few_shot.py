"""So many images of each class, and classes that a set does not have."""

from pathlib import Path

import numpy as np
import pytest
import torch

from petl_vit.errors import InvalidInput
from tests.training.data.files import FLOWERS, folder, npz, pixels, refusal, values
from tests.training.run.notes import Notes
from training.data.dataset import align_classes, few_shot, note_absent
from training.data.reading import Reading
from training.data.records import Dataset
from training.data.sources import load_dataset, load_measured, load_parts


def test_every_class_has_as_many_images(uneven: Dataset, tmp_path: Path) -> None:
    many = load_dataset(npz(tmp_path / "x.npz", images=pixels(53), labels=np.repeat([0, 1, 2], [40, 10, 3])))
    some = few_shot(many, 3, seed=0)
    assert torch.bincount(some.labels).tolist() == [3, 3, 3]
    assert set(values(few_shot(many, 2, seed=0))) < set(values(some))
    assert values(few_shot(many, 3, seed=0)) == values(some) != values(few_shot(many, 3, seed=1))
    assert some.digest == few_shot(many, 3, seed=0).digest != many.digest


def test_the_shots_go_by_content_in_whatever_order_images_are_listed(tmp_path: Path) -> None:
    images, labels = pixels(20), [0, 1] * 10
    one = load_dataset(npz(tmp_path / "a.npz", images=images, labels=labels))
    turned = load_dataset(npz(tmp_path / "b.npz", images=images[::-1], labels=labels[::-1]))
    assert few_shot(one, 4, seed=2).digest == few_shot(turned, 4, seed=2).digest


def test_a_class_with_fewer_images_is_refused_by_name(uneven: Dataset) -> None:
    with pytest.raises(InvalidInput, match="3 different training images of every class: '2' has 2"):
        few_shot(uneven, 3, seed=0)
    with pytest.raises(InvalidInput, match=r"shots: .*; choose 1 at most"):
        few_shot(uneven, 2, seed=0)


def test_copies_of_an_image_are_one_shot(tmp_path: Path) -> None:
    images = np.concatenate([pixels(6), pixels(6)])
    copies = load_dataset(npz(tmp_path / "x.npz", images=images, labels=[0, 1] * 6))
    assert len(set(few_shot(copies, 3, seed=0).fingerprints)) == 6
    with pytest.raises(InvalidInput, match="'0' has 3, '1' has 3"):
        few_shot(copies, 4, seed=0)


def test_shots_are_taken_from_what_is_not_held_out(uneven: Dataset, tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(40), labels=[0, 1] * 20)
    train, heldout = load_parts(source, holdout=0.25, seed=0, shots=5)
    assert (len(train), len(heldout)) == (10, 10)
    assert not set(train.fingerprints) & set(heldout.fingerprints)
    with pytest.raises(InvalidInput, match="leave out --limit or --shots"):
        load_parts(source, holdout=0.25, seed=0, shots=5, limit=10)


# Domains


def test_a_class_missing_in_a_domain_is_told_and_measured_without(tmp_path: Path) -> None:
    notes = Notes()
    source = folder(tmp_path / "sketches", {"rose/1.png": 1})
    measured = Reading(measured=True, reporter=notes)
    dataset = load_dataset(source, reading=measured)
    note_absent(dataset, ("rose", "tulip"), notes.note)
    assert align_classes(dataset, ("rose", "tulip")).labels.tolist() == [0]
    assert notes.notes == [f"{source} lacks 1 of the 2 classes: 'tulip'"]
    assert "has one class only" in str(refusal(source))


def test_an_empty_folder_of_a_class_is_told_where_something_is_measured(tmp_path: Path) -> None:
    notes = Notes()
    source = folder(tmp_path, FLOWERS)
    (tmp_path / "violet").mkdir()
    dataset = load_dataset(source, reading=Reading(measured=True, reporter=notes))
    assert dataset.classes == ("rose", "tulip", "violet")
    assert notes.notes == [f"{source} has no images of 1 of its classes: 'violet'"]
    assert "the class 'violet'" in str(refusal(source))


def test_an_npz_may_lack_a_class_where_something_is_measured(tmp_path: Path) -> None:
    arrays = {"images": pixels(4), "labels": [0, 0, 1, 1], "classes": np.array(["a", "b", "c"])}
    source = npz(tmp_path / "x.npz", **arrays)
    assert "the class 'c'" in str(refusal(source))
    assert len(load_dataset(source, reading=Reading(measured=True))) == 4


def test_classes_that_a_task_does_not_have_are_named_with_the_remedy(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path, FLOWERS | {"dandelion/1.png": 3}))
    with pytest.raises(InvalidInput, match="classes that the task does not have: dandelion") as caught:
        align_classes(dataset, ("rose", "tulip"))
    assert "the task's classes are 'rose', 'tulip'; rename those that mean one of them" in str(caught.value)


def test_what_training_holds_out_is_measured_again(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(40), labels=[0, 1] * 20)
    _, heldout = load_parts(source, holdout=0.25, seed=3)
    reading = Reading(measured=True)
    assert load_measured(source, holdout=0.25, seed=3, reading=reading).digest == heldout.digest
    assert len(load_measured(source, holdout=None, seed=3, reading=reading)) == 40
    files = {f"{name}.png": 10 * number for number, name in enumerate("abcd")}
    folder(tmp_path, files)
    rows = "a.png,x,train\nb.png,y,train\nc.png,x,val\nd.png,y,test\n"
    (tmp_path / "t.csv").write_text("image,label,split\n" + rows)
    table = str(tmp_path / "t.csv")
    assert values(load_measured(table, holdout=0.2, seed=0, reading=reading)) == [20]
    assert values(load_measured(table, holdout=None, seed=0, reading=reading)) == [30]
