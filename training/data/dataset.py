"""Parts of a dataset: held out, smaller, without some images, or with labels that index other classes.

Which part an image falls in is decided by its content and a seed: neither its name nor the images beside it
move it, but for those at the border.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch

from model_store.names import class_name, differences
from petl_vit.errors import InvalidInput
from training.data.records import Dataset, Selection, content_digest, listed


def split_dataset(dataset: Dataset, *, holdout: float, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the held-out part: disjoint, stratified, the same for the same seed.

    Every class keeps at least one training image and, where it has two different ones, one held-out image.
    Copies of an image are in one part.

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
    for members in _ranked_by_class(dataset, seed):
        size = _border(dataset, members, max(1, len(members) - max(1, round(holdout * len(members)))))
        train += members[:size]
        heldout += members[size:]
    learnt = {dataset.fingerprints[index] for index in train}
    train += [index for index in heldout if dataset.fingerprints[index] in learnt]
    heldout = [index for index in heldout if dataset.fingerprints[index] not in learnt]
    if not heldout:
        raise InvalidInput(
            f"{dataset.name} has one image per class, not counting copies, so none can be held out",
            field="holdout",
            remedy="add images, or name a second set to evaluate on",
        )
    return _select(dataset, sorted(train)), _select(dataset, sorted(heldout))


def without(dataset: Dataset, fingerprints: Collection[str]) -> Dataset:
    """The images whose fingerprints are not among these; the dataset itself if that is all."""
    remaining = [index for index, one in enumerate(dataset.fingerprints) if one not in fingerprints]
    return dataset if len(remaining) == len(dataset) else _select(dataset, remaining)


def subset(dataset: Dataset, n: int, seed: int) -> Dataset:
    """`n` images in the proportions of the classes, each class at least once; all if there are fewer.

    The subset of a smaller `n` is contained in that of a larger one.

    Raises:
        InvalidInput: `n` is less than the number of classes.
    """
    groups = _ranked_by_class(dataset, seed)
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


def few_shot(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """So many images of each class, all different; those of a smaller number are among those of a larger one.

    Raises:
        InvalidInput: A class has fewer; names it.
    """
    kept: list[int] = []
    found = dict.fromkeys(dataset.classes, 0)
    for members in _ranked_by_class(dataset, seed):
        different = {dataset.fingerprints[index]: index for index in reversed(members)}
        chosen = [index for index in members if different[dataset.fingerprints[index]] == index][:shots]
        found[dataset.classes[int(dataset.labels[members[0]])]] = len(chosen)
        kept += chosen
    fewer = [f"{name!r} has {count}" for name, count in found.items() if count < shots]
    if fewer:
        more = f" and {len(fewer) - 8} more" if len(fewer) > 8 else ""
        raise InvalidInput(
            f"{dataset.name} does not have {shots} different training images of every class: "
            f"{', '.join(fewer[:8])}{more}",
            field="shots",
            remedy=f"choose {min(found.values())} at most" if min(found.values()) else "add images of them",
        )
    return _select(dataset, sorted(kept))


def note_absent(dataset: Dataset, classes: Sequence[str], note: Callable[[str], None]) -> None:
    """Tells which of a task's classes a set does not know."""
    known = set(map(class_name, dataset.classes))
    absent = [name for name in classes if class_name(name) not in known]
    if absent:
        note(f"{dataset.name} lacks {len(absent)} of the {len(classes)} classes: {listed(absent)}")


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
            f"{differences(unknown, set(places) - set(names), whose='task', subset=True)}",
            field="classes",
            remedy=f"the task's classes are {listed(classes)}; rename those that mean one of them, and leave "
            "out the images of the others",
        )
    labels = torch.tensor([places[name] for name in names])[dataset.labels]
    return replace(dataset, classes=tuple(classes), labels=labels)


def _ranked_by_class(dataset: Dataset, seed: int) -> list[list[int]]:
    """The indices of each class that has images, in an order that the seed and the images' content decide."""
    groups: list[list[int]] = [[] for _ in dataset.classes]
    for index, label in enumerate(dataset.labels.tolist()):
        groups[label].append(index)
    ranks = [hashlib.sha256(f"{seed}/{one}".encode()).digest() for one in dataset.fingerprints]
    return [sorted(members, key=ranks.__getitem__) for members in groups if members]


def _border(dataset: Dataset, members: Sequence[int], size: int) -> int:
    """The place at or before `size` that parts no copies, else the first one after it."""
    contents = [dataset.fingerprints[index] for index in members]
    places = [i for i in range(1, len(members)) if contents[i - 1] != contents[i]]
    return max((place for place in places if place <= size), default=min(places, default=len(members)))


def _select(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    labels = dataset.labels[torch.tensor(indices, dtype=torch.int64)]
    fingerprints = tuple(dataset.fingerprints[index] for index in indices)
    content = zip(fingerprints, labels.tolist(), strict=True)
    return replace(
        dataset,
        images=Selection(images=dataset.images, indices=tuple(indices)),
        labels=labels,
        digest=content_digest(sorted([one, dataset.classes[label]] for one, label in content)),
        fingerprints=fingerprints,
    )
