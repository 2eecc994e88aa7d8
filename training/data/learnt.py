"""Which images of a dataset models have learnt, so that nothing is measured on them unawares.

An image is known by its fingerprint, so neither the folder that it is in nor its name matters. Copies that
were saved again, in another format or size, are other images here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from model_store.format.records import TaskRecord
from model_store.names import BASE
from model_store.resolution.versions import ResolvedTerm
from model_store.store import Store
from training.data.records import Dataset

_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """The images that one adapter or base head was trained on.

    Attributes:
        name: `lora:1` or `base`.
        images: Their fingerprints; None where they are not recorded.
        heldout_digest: Of the images that its training held out; empty where there are none.
    """

    name: str
    images: frozenset[str] | None
    heldout_digest: str = ""


@dataclass(frozen=True)
class Overlap:
    """A dataset beside what some models have learnt."""

    dataset: Dataset
    learnt: Sequence[Learnt]

    @cached_property
    def images(self) -> frozenset[str]:
        """The fingerprints of the dataset that any of the models has learnt."""
        sets = [one.images for one in self.learnt if one.images is not None]
        return frozenset(self.dataset.fingerprints).intersection(frozenset[str]().union(*sets))

    def __len__(self) -> int:
        """How many of the dataset's images any of the models has learnt."""
        return sum(one in self.images for one in self.dataset.fingerprints)

    @property
    def names(self) -> str:
        """The models that have learnt some of the images, each with how many where they differ in that."""
        counts = {one.name: _count(self.dataset, one.images) for one in self.learnt if one.images is not None}
        counts = {name: count for name, count in counts.items() if count}
        alike = len(set(counts.values())) <= 1
        return _listed(name if alike else f"{name} ({count})" for name, count in counts.items())

    @property
    def unknown(self) -> str:
        """The models of which neither the training images nor these held-out images are recorded."""
        return _listed(
            one.name
            for one in self.learnt
            if one.images is None and one.heldout_digest != self.dataset.digest
        )


def by_adapters(store: Store, terms: Iterable[ResolvedTerm]) -> list[Learnt]:
    """What adapters, and the base heads of their tasks, have learnt; each once."""
    learnt: dict[str, Learnt] = {}
    for term in terms:
        if term.manifest is not None:
            training = term.manifest.training
            learnt[term.digest] = Learnt(
                name=term.label,
                images=store.images.of(training),
                heldout_digest=str(training.get("heldout_digest", "")),
            )
        learnt.setdefault(term.task.digest, by_base_head(store, term.task))
    return list(learnt.values())


def by_base_head(store: Store, task: TaskRecord) -> Learnt:
    """What the base head of a task was fitted to."""
    return Learnt(
        name=BASE,
        images=store.images.of(task.training),
        heldout_digest=str(task.training.get("heldout_digest", "")),
    )


def _count(dataset: Dataset, images: frozenset[str]) -> int:
    return sum(one in images for one in dataset.fingerprints)


def _listed(names: Iterable[str]) -> str:
    several = list(dict.fromkeys(names))
    more = f" and {len(several) - _LISTED} more" if len(several) > _LISTED else ""
    return ", ".join(several[:_LISTED]) + more
