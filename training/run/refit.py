"""Fitting the base head of a task again: to more images than the first run had, or to newer ones.

The result is the next version of the task. Adapters stay with the version that they were trained for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_store.format.records import TaskRecord
from model_store.resolution.loading import Loader
from model_store.store import Store
from petl_vit.device import chosen_device
from petl_vit.errors import Conflict
from petl_vit.heads import Head
from petl_vit.image_input import MAX_PIXELS
from petl_vit.vit import FrozenViT
from training.data.dataset import align_classes
from training.data.learnt import Overlap, by_base_head
from training.data.loading import Resized
from training.data.reading import reading_of
from training.data.sources import load_parts, training_parts
from training.progress import Reporter, Silent
from training.run import probe
from training.run.task import check_spec, fit_base_head
from training.run.training_data import TrainingData, unlearnt
from training.run.transform import Input


@dataclass(frozen=True, kw_only=True)
class Job:
    """Which task, and the images to fit its base head to; what it does not say is as in training.

    Attributes:
        backbone: Name or digest in the store.
        move_base: Go on where named routes answer by `base`, which then means the new base head.
    """

    backbone: str
    task: str
    data: str
    heldout: str | None = None
    holdout: float = 0.2
    split_seed: int = 0
    limit: int | None = None
    shots: int | None = None
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    device: str = "cpu"
    move_base: bool = False


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """The new version of a task beside the one before, each with its accuracy on held-out images.

    Attributes:
        images: How many held-out images.
        accuracy_before: None where the base head before was fitted to some of them.
    """

    task: TaskRecord
    before: TaskRecord
    images: int
    accuracy: float
    accuracy_before: float | None


def refit(store: Store, job: Job, reporter: Reporter | None = None) -> Refitted:
    """Fits the base head of a task again and stores it as the task's next version.

    Raises:
        NotFound: The task, the backbone or the data do not exist.
        InvalidInput: The data has other classes than the task, or nothing remains to measure on.
        Conflict: A version of the task has this base head already, or named routes answer by `base`.
    """
    reporter = reporter or Silent()
    backbone = store.backbones.get(job.backbone)
    before = store.tasks.get(job.task, backbone.digest)
    routes = by_base(store, job.task)
    if routes and not job.move_base:
        raise Conflict(
            f"{', '.join(routes)} answer by `base`, which would mean the new base head",
            field="task",
            remedy="put these routes without it, or let them move with --move-base",
        )
    reading = reading_of(job, reporter)
    source, other = training_parts(job.data, job.heldout, reading)
    train, heldout = load_parts(
        source,
        heldout=other,
        holdout=job.holdout,
        seed=job.split_seed,
        limit=job.limit,
        shots=job.shots,
        reading=reading,
    )
    check_spec(before.spec, train, Input())
    data = TrainingData(dataset=align_classes(train, before.spec.classes), limit=job.limit, shots=job.shots)
    heldout = unlearnt(
        align_classes(heldout, before.spec.classes),
        [data.learnt()],
        reporter.note,
        field="heldout",
        remedy="hold out other images than those of --data",
    )
    loader = Loader(store, backbone, device=chosen_device(job.device))
    vit, spec = loader.vit(before.spec.preprocess.image_size), before.spec
    with reporter.stage("reading images", len(train) + len(heldout)) as advance:
        images = Resized(data.dataset, spec.preprocess, vit, advance=advance)
        measured = Resized(heldout, spec.preprocess, vit, advance=advance)
    head = fit_base_head(spec, vit, images, reporter)
    features = _features(vit, measured, reporter)
    clean = not len(Overlap(heldout, [by_base_head(store, before)]))
    data.remember(store)
    return Refitted(
        task=store.tasks.refit(before, head.tensors(), data.record()),
        before=before,
        images=len(heldout),
        accuracy=_accuracy(head, features, measured.labels),
        accuracy_before=_accuracy(loader.base_head(before), features, measured.labels) if clean else None,
    )


def by_base(store: Store, task: str) -> list[str]:
    """The named routes of any task that answer by the `base` of a task."""
    return [
        f"route {route.task}/{route.name}"
        for route in store.routes.list()
        if any(ref.is_base and (ref.task or route.task) == task for ref in route.parsed().adapters)
    ]


def _features(vit: FrozenViT, images: Resized, reporter: Reporter) -> Tensor:
    """[n, D] on the host."""
    with reporter.stage("measuring on held-out images", len(images)) as advance:
        return probe.features(vit, (images.batch(i) for i in images.batches()), advance)


def _accuracy(head: Head, features: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        return float((head.logits(features).argmax(dim=-1) == labels).double().mean())
