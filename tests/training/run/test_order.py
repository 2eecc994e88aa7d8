"""The order of an epoch's images."""

import torch

from training.run.order import epoch_order

TAIL = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)


def order(seed: int, balance: str = "classes", labels: torch.Tensor = TAIL) -> torch.Tensor:
    return epoch_order(labels, balance, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_without_balance_every_image_is_shown_once_as_ever() -> None:
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(7))
    assert torch.equal(order(7, "none"), expected)


def test_every_class_is_shown_equally_often_and_its_images_too() -> None:
    indices = order(0)
    assert len(indices) == 100
    assert sorted(TAIL[indices].bincount().tolist()) == [33, 33, 34]
    for label in (0, 1, 2):
        shown = indices.bincount(minlength=100)[label == TAIL]
        assert int(shown.max() - shown.min()) <= 1


def test_the_seed_decides_and_over_the_epochs_every_image_is_shown() -> None:
    assert torch.equal(order(3), order(3))
    assert not torch.equal(order(3), order(4))
    assert len(set(torch.cat([order(seed) for seed in range(12)]).tolist())) == 100


def test_classes_are_mixed_within_an_epoch() -> None:
    halves = TAIL[order(1)].split(50)
    assert all(int(half.bincount(minlength=3).min()) >= 8 for half in halves)


def test_a_class_without_images_takes_no_share() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    assert labels[order(0, labels=labels)].bincount().tolist() == [2, 0, 2]


def test_more_classes_than_images_of_some_epoch_are_no_problem() -> None:
    labels = torch.arange(5)
    assert sorted(order(0, labels=labels).tolist()) == [0, 1, 2, 3, 4]
