from pathlib import Path

import numpy as np
import pytest
import torch

from petl_vit.errors import InvalidInput
from tests.training.data.files import npz, pixels, values
from training.data.dataset import align_classes, split_dataset, subset, without
from training.data.records import Dataset
from training.data.sources import load_dataset


def test_a_split_is_disjoint_complete_and_stratified(uneven: Dataset) -> None:
    train, heldout = split_dataset(uneven, holdout=0.2, seed=0)
    assert sorted(values(train) + values(heldout)) == list(range(53))
    assert torch.bincount(train.labels).tolist() == [32, 8, 1, 1]
    assert torch.bincount(heldout.labels).tolist() == [8, 2, 1]


@pytest.mark.parametrize("holdout", [0.001, 0.999])
def test_a_split_leaves_every_class_in_both_parts(uneven: Dataset, holdout: float) -> None:
    train, heldout = split_dataset(uneven, holdout=holdout, seed=0)
    assert torch.bincount(train.labels, minlength=4).min() == 1 or holdout < 0.5
    assert set(train.labels.tolist()) == {0, 1, 2, 3}
    assert set(heldout.labels.tolist()) == {0, 1, 2}


def test_a_split_is_decided_by_the_seed(uneven: Dataset) -> None:
    first, again, other = (split_dataset(uneven, holdout=0.2, seed=seed)[1] for seed in (0, 0, 1))
    assert values(first) == values(again) != values(other)
    assert first.digest == again.digest != other.digest != uneven.digest


def test_a_split_goes_by_content_so_that_a_new_image_moves_no_other_into_the_held_out_part(
    tmp_path: Path,
) -> None:
    images, labels = pixels(42), [0, 1] * 20
    train, heldout = split_dataset(
        load_dataset(npz(tmp_path / "a.npz", images=images[:40], labels=labels)), holdout=0.2, seed=0
    )
    grown = load_dataset(npz(tmp_path / "b.npz", images=images[::-1], labels=[1, 0, *labels[::-1]]))
    after = split_dataset(grown, holdout=0.2, seed=0)[1]
    assert not set(train.fingerprints) & set(after.fingerprints)
    assert len(set(heldout.fingerprints) - set(after.fingerprints)) <= 2  # one of each class made room


def test_copies_of_an_image_are_in_one_part(tmp_path: Path) -> None:
    images = np.concatenate([pixels(10)] * 4)
    source = npz(tmp_path / "x.npz", images=images, labels=[0, 1] * 20)
    for holdout in (0.1, 0.25, 0.5):
        train, heldout = split_dataset(load_dataset(source), holdout=holdout, seed=0)
        assert len(train) + len(heldout) == 40
        assert not set(train.fingerprints) & set(heldout.fingerprints)


def test_images_are_left_out_by_content(uneven: Dataset) -> None:
    rest = without(uneven, set(uneven.fingerprints[:50]))
    assert values(rest) == [50, 51, 52]
    assert without(uneven, {"0" * 16}) is uneven


def test_equal_images_make_equal_parts_whatever_else_is_in_the_set(uneven: Dataset) -> None:
    most = without(uneven, {uneven.fingerprints[-1]})
    rest = set(uneven.fingerprints[:50])
    parts = [without(without(uneven, rest), {uneven.fingerprints[-1]}), without(most, rest)]
    assert parts[0].digest == parts[1].digest != most.digest


def test_labels_stay_with_their_images_in_a_split(uneven: Dataset) -> None:
    labels = uneven.labels.tolist()
    for part in split_dataset(uneven, holdout=0.3, seed=3):
        assert part.labels.tolist() == [labels[value] for value in values(part)]


@pytest.mark.parametrize("holdout", [0.0, 1.0, -0.5, float("nan")])
def test_a_holdout_that_is_no_share_is_refused(uneven: Dataset, holdout: float) -> None:
    with pytest.raises(InvalidInput, match="holdout"):
        split_dataset(uneven, holdout=holdout, seed=0)


def test_nothing_to_hold_out_is_refused(tmp_path: Path) -> None:
    dataset = load_dataset(npz(tmp_path / "x.npz", images=pixels(2), labels=[0, 1]))
    with pytest.raises(InvalidInput, match="one image per class"):
        split_dataset(dataset, holdout=0.5, seed=0)


def test_a_subset_keeps_proportions_and_every_class(uneven: Dataset) -> None:
    assert torch.bincount(subset(uneven, 4, seed=0).labels).tolist() == [1, 1, 1, 1]
    counts = torch.bincount(subset(uneven, 20, seed=0).labels).tolist()
    assert sum(counts) == 20
    assert counts[2:] == [1, 1]
    assert counts[0] in (14, 15)


def test_a_smaller_subset_is_part_of_a_larger_one(uneven: Dataset) -> None:
    small, large = (set(values(subset(uneven, n, seed=5))) for n in (10, 30))
    assert len(small) == 10
    assert small < large


def test_a_subset_of_more_than_there_is_is_everything(uneven: Dataset) -> None:
    assert subset(uneven, 1000, seed=0) is uneven


@pytest.mark.parametrize("n", [3, 0, -1])
def test_a_subset_that_cannot_cover_the_classes_is_refused(uneven: Dataset, n: int) -> None:
    with pytest.raises(InvalidInput, match="at least 4"):
        subset(uneven, n, seed=0)


def test_align_matches_labels_by_class_name(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(3), labels=[0, 1, 0], classes=["cat", "dog"])
    aligned = align_classes(load_dataset(source), ["dog", "eel", "cat"])
    assert aligned.classes == ("dog", "eel", "cat")
    assert aligned.labels.tolist() == [2, 0, 2]


def test_align_names_the_class_that_the_task_lacks(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(2), labels=[0, 1], classes=["cat", "dogs"])
    with pytest.raises(InvalidInput, match=r"the task does not have: dogs \(task: dog\);"):
        align_classes(load_dataset(source), ["cat", "dog"])
