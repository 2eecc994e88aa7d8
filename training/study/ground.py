"""What all trials of a sweep have in common: images, the split for tuning, and a base head of its own.

The validation part is split off the training images, so that the held-out images of the task play no part.
The task's base head is, as a rule, fitted to all training images, the validation part among them, so trials
start from one that is fitted to the train part alone.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import JsonValue

from model_store.format.canonical import canonical_json
from model_store.format.records import BackboneRecord, TaskRecord, TaskSpec
from model_store.resolution.loading import Loader
from model_store.store import Store
from petl_vit.device import chosen_device, use_threads
from petl_vit.errors import InvalidInput, NotFound
from petl_vit.heads import Head, LinearHead
from petl_vit.vit import FrozenViT
from training.data.dataset import align_classes, split_dataset, without
from training.data.learnt import by_base_head
from training.data.loading import Resized
from training.data.reading import Reading, reading_of
from training.data.records import Dataset, Selection, content_digest
from training.data.sources import fewer, load_dataset, source_parts
from training.progress import Reporter
from training.run import probe
from training.run.checkpoint import Checkpoint
from training.run.job import Job
from training.run.precision import check_precision, frozen
from training.run.task import check_spec, new_spec
from training.study.verdict import Yardstick


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The images of a sweep, not yet decoded.

    Attributes:
        dataset: The training images, with the classes in the order of the task.
        train, validation: Their places in the two parts.
        digest: Of what is in which part.
        task: The task, where its base head has learnt none of the validation part: trials start from it.
    """

    backbone: BackboneRecord
    spec: TaskSpec
    dataset: Dataset
    train: torch.Tensor
    validation: torch.Tensor
    digest: str
    task: TaskRecord | None

    def common(self) -> dict[str, JsonValue]:
        """What of them decides the result of a trial."""
        return {
            "task": self.spec.name,
            "backbone": self.backbone.digest[:12],
            **self.spec.preprocess.model_dump(mode="json"),
            "data": f"{self.dataset.name}, {len(self.dataset)} images ({self.digest[:12]})",
            "base_head": self.task.digest[:12] if self.task else None,
        }


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What trials run on.

    Attributes:
        vit: The backbone in float32, on the host.
        on: The backbone as training runs it.
        base_head: Where the heads of trials start; it has not learnt the validation part.
        train, validation: The two parts of the training images.
        digest: Of what of all this decides the result of a trial.
    """

    vit: FrozenViT
    on: FrozenViT
    base_head: Head
    train: Resized
    validation: Resized
    yardstick: Yardstick
    digest: str


def on_parts(job: Job, reporter: Reporter) -> tuple[Job, str | None]:
    """A job on the parts that its data was published in, and the part to validate on.

    Where there is a part for tests besides the one for validation, winners are trained on all but the former.
    None where a share of the training images is the validation part.
    """
    parts = source_parts(job.data, reading=reading_of(job, reporter))
    if parts is None:
        return job, None
    if parts.tuning is None or parts.tested in parts.tuning:
        return replace(job, data=parts.training, heldout=job.heldout or parts.heldout), None
    return replace(job, data=parts.final, heldout=job.heldout or parts.tested), parts.tuning[1]


def split(store: Store, job: Job, share: float, reporter: Reporter, part: str | None = None) -> Tuning:
    """Finds the training images of a job, and splits `share` of each class off as the validation part.

    Args:
        part: The source of the validation part, which is among the training images; None takes the share.

    Raises:
        NotFound, InvalidInput: As `training.run.job.run` does.
    """
    backbone = store.backbones.get(job.backbone)
    reading = reading_of(job, reporter)
    dataset = load_dataset(job.data, reading=reading)
    if job.heldout is None:
        dataset, _ = split_dataset(dataset, holdout=job.holdout, seed=job.split_seed)
    dataset = fewer(dataset, limit=job.limit, shots=job.shots, seed=job.split_seed)
    task = None
    try:
        task = store.tasks.get(job.task, backbone.digest)
        spec = task.spec
    except NotFound:
        spec = new_spec(job.task, dataset.classes, backbone, job.input)
    check_spec(spec, dataset, job.input)
    dataset = align_classes(dataset, spec.classes)
    train, validation = _parted(dataset, job, share, part, reading)
    return Tuning(
        backbone=backbone,
        spec=spec,
        dataset=dataset,
        train=_places(train),
        validation=_places(validation),
        digest=content_digest([train.digest, validation.digest]),
        task=task if task is not None and _is_new_to(store, task, validation) else None,
    )


def _parted(
    dataset: Dataset, job: Job, share: float, part: str | None, reading: Reading
) -> tuple[Dataset, Dataset]:
    """The train and the validation part."""
    if part is None:
        try:
            return split_dataset(dataset, holdout=share, seed=job.split_seed)
        except InvalidInput as error:
            raise error.about("validation") from None
    found = load_dataset(part, field="validation", reading=replace(reading, measured=True))
    train = without(dataset, set(found.fingerprints))
    validation = without(dataset, set(train.fingerprints))
    if not len(train) or not len(validation):
        raise InvalidInput(
            f"{len(validation)} of the {len(dataset)} training images are those of {part}",
            field="validation",
            remedy="name the part to train on with --data, and --validation takes a share of it",
        )
    return train, validation


def prepare(
    store: Store,
    job: Job,
    tuning: Tuning,
    folder: Path,
    reporter: Reporter,
    *,
    threads: int | None = None,
) -> Ground:
    """Decodes the images and fits the base head, once for all trials; the head is kept in the folder."""
    use_threads(threads)
    device = chosen_device(job.device)
    check_precision(job.recipe.precision, device)
    loader = Loader(store, tuning.backbone)
    vit = loader.vit(tuning.spec.preprocess.image_size)
    on = frozen(vit, job.recipe.precision, device)
    exact = on if job.recipe.precision == "fp32" else vit.to(device=device)
    dataset = tuning.dataset
    with reporter.stage("reading training images", len(dataset)) as advance:
        images = Resized(
            dataset, tuning.spec.preprocess, on, augmentation=job.recipe.augment, advance=advance
        )
    if not images.kept:
        reporter.note(f"{dataset.name} is too large to keep, so it is decoded again every epoch")
    train, validation = images.part(tuning.train), images.part(tuning.validation)
    theirs = None if tuning.task is None else loader.base_head(tuning.task)
    kept = Checkpoint(path=folder / f"base-head-{_digest(tuning)}.pt")
    classes = len(tuning.spec.classes)
    head, accuracy = _base_head(theirs, exact, train, validation, classes, kept, reporter)
    counts = torch.bincount(validation.labels, minlength=len(dataset.classes))
    return Ground(
        vit=vit,
        on=on,
        base_head=head,
        train=train,
        validation=validation,
        yardstick=Yardstick(
            base=accuracy,
            chance=float(counts.max() / counts.sum()),
            classes=len(dataset.classes),
            images=len(validation),
            epochs=job.recipe.epochs,
        ),
        digest=_digest(tuning),
    )


def _base_head(
    theirs: Head | None,
    vit: FrozenViT,
    train: Resized,
    validation: Resized,
    classes: int,
    kept: Checkpoint,
    reporter: Reporter,
) -> tuple[Head, float]:
    """The task's base head or a linear probe of the train part, and its accuracy on the validation part."""
    state = kept.load()
    if state is None:
        kept.prepare()
        fitted_to = [] if theirs is not None else [train]
        with reporter.stage("fitting the base head", sum(map(len, [validation, *fitted_to]))) as advance:
            other, *learnt = (
                probe.features(vit, (images.batch(i) for i in images.batches()), advance)
                for images in (validation, *fitted_to)
            )
            head = theirs or probe.fit(learnt[0], train.labels, classes)
        right = head.logits(other).argmax(dim=-1) == validation.labels
        state = {"accuracy": float(right.float().mean())}
        if isinstance(head, LinearHead):
            state |= {"weight": head.weight, "bias": head.bias}
        kept.save(state)
    head = theirs or LinearHead(weight=state["weight"], bias=state["bias"])
    return head, state["accuracy"]


def _is_new_to(store: Store, task: TaskRecord, images: Dataset) -> bool:
    """Whether the base head of a task is known to have learnt none of these images."""
    learnt = by_base_head(store, task).images
    return learnt is not None and learnt.isdisjoint(images.fingerprints)


def _digest(tuning: Tuning) -> str:
    return hashlib.sha256(canonical_json(tuning.common())).hexdigest()[:12]


def _places(part: Dataset) -> torch.Tensor:
    assert isinstance(part.images, Selection), "a part of a dataset is a selection of it"
    return torch.tensor(part.images.indices, dtype=torch.int64)
