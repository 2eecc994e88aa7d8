"""Parts of a dataset: held out, smaller, or with labels that index other classes."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from model_store.names import class_name, differences
from petl_vit.errors import InvalidInput
from training.data.records import Dataset, Selection, content_digest, listed


def split_dataset(dataset: Dataset, *, holdout: float, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the held-out part: disjoint, stratified, the same for the same seed.

    Every class keeps at least one training image and, where it has two, one held-out image.

    Raises:
        InvalidInput: `holdout` is outside (0, 1), or every class has a single image.
    """
    if not 0 < holdout < 1:
        raise InvalidInput(
            f"{holdout} is not a share of the data",
            field="holdout",
            remedy="choose it between 0 and 1, e.g. 0.2",
        )
    train: list[int] = []
    heldout: list[int] = []
    for members in _shuffled_by_class(dataset, seed):
        size = max(1, len(members) - max(1, round(holdout * len(members))))
        train += members[:size]
        heldout += members[size:]
    if not heldout:
        raise InvalidInput(
            f"{dataset.name} has one image per class, so none can be held out",
            field="holdout",
            remedy="add images, or name a second set to evaluate on",
        )
    return _select(dataset, sorted(train)), _select(dataset, sorted(heldout))


def subset(dataset: Dataset, n: int, seed: int) -> Dataset:
    """`n` images in the proportions of the classes, each class at least once; all if there are fewer.

    The subset of a smaller `n` is contained in that of a larger one.

    Raises:
        InvalidInput: `n` is less than the number of classes.
    """
    groups = _shuffled_by_class(dataset, seed)
    if n < len(groups):
        raise InvalidInput(
            f"{n} images cannot cover the {len(groups)} classes of {dataset.name}",
            field="limit",
            remedy=f"use at least {len(groups)}",
        )
    if n >= len(dataset):
        return dataset
    # Each member stands at its quantile within its class, so every prefix of the ranking is stratified.
    ranked = [
        ((place + 0.5) / len(members) if place else 0.0, index)
        for members in groups
        for place, index in enumerate(members)
    ]
    return _select(dataset, sorted(index for _, index in sorted(ranked)[:n]))


def align_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The same images with labels that index `classes`, matched by name.

    Raises:
        InvalidInput: The dataset has a class that `classes` lacks.
    """
    places = {class_name(name): place for place, name in enumerate(classes)}
    names = [class_name(name) for name in dataset.classes]
    unknown = [name for name in names if name not in places]
    if unknown:
        raise InvalidInput(
            f"{dataset.name} has classes that the task does not have: "
            f"{differences(unknown, set(places) - set(names), whose='task')}",
            field="classes",
            remedy=f"the task's classes are {listed(classes)}",
        )
    labels = torch.tensor([places[name] for name in names])[dataset.labels]
    return replace(dataset, classes=tuple(classes), labels=labels)


def _shuffled_by_class(dataset: Dataset, seed: int) -> list[list[int]]:
    """The indices of each class that has images, in an order that the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for label in range(len(dataset.classes)):
        members = torch.nonzero(dataset.labels == label).flatten()
        if len(members):
            groups.append(members[torch.randperm(len(members), generator=generator)].tolist())
    return groups


def _select(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    return replace(
        dataset,
        images=Selection(images=dataset.images, indices=tuple(indices)),
        labels=dataset.labels[torch.tensor(indices, dtype=torch.int64)],
        digest=content_digest([dataset.digest, list(indices)]),
    )
