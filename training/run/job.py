"""One training job: from names to a registered adapter.

    data -> split -> task and its base head (once) -> train (resumable) -> held-out metrics -> publish

Several jobs that differ in name and recipe alone can run together: they share data, base head and forwards.
The only write that others see is the last one, and it is atomic. A job that was killed goes on from its last
epoch; one that is registered already is not trained again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from model_store.format.records import Draft, Manifest, TaskRecord, TaskSpec
from model_store.names import LATEST
from model_store.resolution.loading import Loader
from model_store.resolution.precision import Subject, checked
from model_store.store import Store
from petl_vit.architecture import describe
from petl_vit.batch import Batch
from petl_vit.device import chosen_device, use_threads
from petl_vit.errors import NotFound
from petl_vit.image_input import MAX_PIXELS, Interpolation, Resize
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from training.data.dataset import align_classes
from training.data.learnt import Learnt, Overlap, by_base_head
from training.data.loading import Resized
from training.data.reading import reading_of
from training.data.records import Dataset
from training.data.sources import load_parts, training_parts
from training.measure.versions import package_versions
from training.progress import Reporter, Silent
from training.run import rates
from training.run.checkpoint import Checkpoint
from training.run.epochs import run_epochs
from training.run.heldout import HeldOut, compare_with_previous, models_of
from training.run.outcome import Outcome
from training.run.planned import Planned
from training.run.precision import check_precision, frozen, settled
from training.run.recipe import Recipe
from training.run.referencing import Answered
from training.run.task import check_spec, create, new_spec
from training.run.together import check_names, check_together
from training.run.trainer import Trained
from training.run.training_data import TrainingData, unlearnt
from training.run.transform import Input, Normalise


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on what, and where it goes.

    Attributes:
        backbone: Name or digest in the store.
        task, name: Where the adapter is registered.
        data: Training images; see `training.data.sources.load_dataset`.
        heldout: A held-out set of its own, or None to split `holdout` off the training images.
        split_seed: Decides the split; the same for all adapters of a task, so that none is measured on
            images that the base head was fitted to.
        limit: At most so many training images, or None.
        shots: So many training images of each class, or None.
        max_pixels, skip_bad, image_column, label_column: How images are read, as
            `training.data.reading.Reading` says.
        image_size, resize, crop_ratio, interpolation, normalise: How images of a new task reach the backbone,
            as `training.run.transform.Input` says.
        runs: Folder for the state of unfinished runs.
        micro_batch: Images of one forward and backward; None is the batch, or as many as fit in memory.
        again: Train and register even if the same run is registered already.
        measure_precision: What the held-out images are measured in, as a server's --precision.
        promote: Move `latest` even to an adapter that is far below its base head.
        sweep: How a sweep came to the recipe, for the manifest; None where a person chose it.
    """

    backbone: str
    task: str
    name: str
    data: str
    recipe: Recipe
    runs: Path
    heldout: str | None = None
    holdout: float = 0.2
    split_seed: int = 0
    limit: int | None = None
    shots: int | None = None
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    image_size: int | None = None
    resize: Resize | None = None
    crop_ratio: float | None = None
    interpolation: Interpolation | None = None
    normalise: Normalise | None = None
    device: str = "cpu"
    micro_batch: int | None = None
    again: bool = False
    measure_precision: Precision = Precision.AUTO
    promote: bool = False
    sweep: dict[str, JsonValue] | None = None

    @property
    def input(self) -> Input:
        return Input(**{field.name: getattr(self, field.name) for field in fields(Input)})


def run(store: Store, job: Job, reporter: Reporter | None = None) -> Outcome:
    """Train, measure and register an adapter.

    Raises:
        NotFound: The backbone or the data do not exist.
        InvalidInput: A setting or the data cannot work, or the task exists with other classes or
            another input; names it.
    """
    return run_together(store, [job], reporter)[0]


def run_together(store: Store, jobs: Sequence[Job], reporter: Reporter | None = None) -> list[Outcome]:
    """Train adapters in the same forwards, measure and register each; the outcomes in order of the jobs.

    Each ends as it would alone, to rounding, and has the state and the digest that it would have alone.

    Raises:
        NotFound, InvalidInput: As `run` does.
        InvalidInput: Jobs differ in more than name and recipe, or share a name.
        Unsupported: A method cannot share a forward.
    """
    return _Run(store, jobs, reporter or Silent()).outcomes()


class _Run:
    """The steps of a run, each a method, in order of `outcomes`."""

    def __init__(self, store: Store, jobs: Sequence[Job], reporter: Reporter) -> None:
        self._store, self._reporter = store, reporter
        for one in jobs:
            check_names(one)
        use_threads()
        job, *_ = jobs = settled(store, jobs, reporter.note)
        self._device = chosen_device(job.device)
        check_precision(job.recipe.precision, self._device)
        self._adapters = [Planned.of(one.name, one.recipe) for one in jobs]
        self._sweeps = {one.name: one.sweep for one in jobs if one.sweep is not None}
        if len(jobs) > 1:
            check_together(jobs)
        self._backbone = store.backbones.get(job.backbone)
        reading = reading_of(job, reporter)
        data, heldout = training_parts(job.data, job.heldout, reading)
        self._job = replace(job, data=data, heldout=heldout)
        self._dataset, self._heldout = load_parts(
            data,
            heldout=heldout,
            holdout=job.holdout,
            seed=job.split_seed,
            limit=job.limit,
            shots=job.shots,
            reading=reading,
        )
        self._adapters = [rates.settled(adapter, len(self._dataset)) for adapter in self._adapters]

    @cached_property
    def _loader(self) -> Loader:
        """On the host, float32. Read when it is needed: a run that is registered already needs no weights."""
        return Loader(self._store, self._backbone)

    def outcomes(self) -> list[Outcome]:
        task = self._existing_task()
        registered = {} if task is None or self._job.again else self._registered(task)
        remaining = [adapter for adapter in self._adapters if adapter.name not in registered]
        trained = self._trained(task, remaining) if remaining else {}
        if registered:
            self._data.remember(self._store)
        manifests = registered | trained
        for manifest in trained.values():
            compare_with_previous(self._store, manifest, self._reporter.note)
        return [
            Outcome(
                manifest=manifests[adapter.name],
                reused=adapter.name in registered,
                latest=self._store.adapters.version_of(self._job.task, adapter.name, LATEST),
            )
            for adapter in self._adapters
        ]

    def _trained(self, task: TaskRecord | None, adapters: Sequence[Planned]) -> dict[str, Manifest]:
        """Trains, measures and publishes adapters; their manifests by name."""
        spec = task.spec if task is not None else self._new_spec()
        # Refuses settings that do not fit this backbone, before anything is stored.
        arch = describe(self._backbone.config).at(spec.preprocess.image_size)
        for adapter in adapters:
            adapter.method.shapes(arch)
            for note in adapter.method.notes(arch, published=adapter.recipe.init == "published"):
                self._reporter.note(f"{adapter.name}: {note}")
        vit = self._loader.vit(spec.preprocess.image_size)
        on = frozen(vit, self._job.recipe.precision, self._device)
        images = self._images(self._dataset, spec, on, "reading training images")
        heldout = self._images(self._heldout, spec, on, "reading held-out images")
        task = task or create(self._store, spec, self._exact(vit, on), images, self._data, self._reporter)
        for adapter in adapters:
            rates.tell(adapter, self._reporter)
        checkpoints = [self._checkpoint(adapter, task) for adapter in adapters]
        results = run_epochs(
            adapters,
            checkpoints,
            vit=vit,
            on=on,
            base_head=self._loader.base_head(task),
            images=images,
            heldout=heldout,
            reporter=self._reporter,
            micro_batch=self._job.micro_batch,
        )
        trained = list(zip(adapters, results, strict=True))
        drafts = self._drafts(task, heldout, trained)
        self._data.remember(self._store)  # before a manifest names them
        manifests = {}
        for adapter, result in trained:
            draft, answered = drafts[adapter.name]
            good = self._job.promote or not draft.training.get("far_below_base")
            tensors = result.tensors | result.head.tensors()
            manifests[adapter.name] = self._store.adapters.publish(draft, tensors, latest=good)
            answered.keep(self._store, manifests[adapter.name], self._reporter.note)
            self._checkpoint(adapter, task).remove()
        return manifests

    def _exact(self, vit: FrozenViT, on: FrozenViT) -> FrozenViT:
        """In float32 on the device: what base heads are fitted with."""
        return on if self._job.recipe.precision == "fp32" else vit.to(device=self._device)

    def _existing_task(self) -> TaskRecord | None:
        """The task as it stands on this backbone; the data's classes are brought into its order."""
        try:
            task = self._store.tasks.get(self._job.task, self._backbone.digest)
        except NotFound:
            self._leave_out_learnt([])
            return None
        check_spec(task.spec, self._dataset, self._job.input)
        self._dataset = align_classes(self._dataset, task.spec.classes)
        self._heldout = align_classes(self._heldout, task.spec.classes)
        self._leave_out_learnt([by_base_head(self._store, task)])
        return task

    def _leave_out_learnt(self, learnt: Sequence[Learnt]) -> None:
        """Measures on no image that this run or the base head is fitted to."""
        job, task = self._job, self._job.task
        self._heldout = unlearnt(
            self._heldout,
            [self._data.learnt(), *learnt],
            self._reporter.note,
            field="holdout" if job.heldout is None else "heldout",
            remedy="hold out images that nothing was trained on, or choose another --task"
            if learnt
            else "hold out other images than those of --data",
        )
        if Overlap(self._heldout, learnt).unknown:
            self._reporter.note(
                f"it is not recorded which images the base head of task {task} was fitted to, so held-out "
                f"images may be among them; `corolla tasks refit-head {task}` fits it to known ones"
            )

    @property
    def _data(self) -> TrainingData:
        return TrainingData(dataset=self._dataset, limit=self._job.limit, shots=self._job.shots)

    def _new_spec(self) -> TaskSpec:
        return new_spec(self._job.task, self._dataset.classes, self._backbone, self._job.input)

    def _images(self, dataset: Dataset, spec: TaskSpec, vit: FrozenViT, what: str) -> Resized:
        kind = self._job.recipe.augment
        with self._reporter.stage(what, len(dataset)) as advance:
            images = Resized(dataset, spec.preprocess, vit, augmentation=kind, advance=advance)
        if not images.kept:
            self._reporter.note(f"{dataset.name} is too large to keep, so it is decoded again every epoch")
        return images

    def _recipe_digest(self, adapter: Planned, task: TaskRecord) -> str:
        return adapter.recipe.model_copy(update={"config": adapter.method.model_dump(mode="json")}).digest(
            backbone=self._backbone.digest,
            task=task.digest,
            data=self._dataset.digest,
            heldout=self._heldout.digest,
        )

    def _registered(self, task: TaskRecord) -> dict[str, Manifest]:
        """The newest version of each name that came from this very run, if any."""
        manifests = {}
        for adapter in self._adapters:
            versions = self._store.adapters.versions(self._job.task, adapter.name)
            if not versions:
                continue
            newest = self._store.adapters.manifest(self._job.task, adapter.name, versions[-1])
            if newest.training.get("recipe_digest") != self._recipe_digest(adapter, task):
                continue
            if newest.training.get("sweep") != self._sweeps.get(adapter.name, newest.training.get("sweep")):
                continue
            if self._job.measure_precision not in (Precision.AUTO, newest.metrics_precision):
                self._reporter.note(
                    f"{newest} was measured in {newest.metrics_precision}; see corolla evaluate"
                )
            if newest.training.get("heldout_digest") != self._heldout.digest:
                self._reporter.note(f"{newest} was measured on other held-out images; see corolla evaluate")
            self._checkpoint(adapter, task).remove()
            if self._job.promote:
                self._store.adapters.set_alias(self._job.task, adapter.name, LATEST, newest.version)
            manifests[adapter.name] = newest
        return manifests

    def _checkpoint(self, adapter: Planned, task: TaskRecord) -> Checkpoint:
        return Checkpoint(path=self._job.runs / f"{self._recipe_digest(adapter, task)}.pt")

    def _drafts(
        self, task: TaskRecord, images: Resized, trained: Sequence[tuple[Planned, Trained]]
    ) -> dict[str, tuple[Draft, Answered]]:
        """The drafts by name, with temperatures and metrics, and what those are of: as a server answers."""
        job, loader = self._job, self._measuring(task, trained)
        vit, models = loader.vit(task.spec.preprocess.image_size), models_of(task, trained, loader)
        heldout = HeldOut(
            dataset=self._heldout,
            images=images,
            holdout=job.holdout if job.heldout is None else None,
            split_seed=job.split_seed,
        )
        with self._reporter.stage("measuring on held-out images", len(images)) as advance:
            (*logits, base), features = heldout.answers(Batch(vit), models, advance)
        answered = partial(
            Answered, heldout=heldout, base=base, features=features, precision=loader.precision
        )
        drafts = {}
        for (adapter, result), answers in zip(trained, logits, strict=True):
            beside = [other.name for other, _ in trained if other is not adapter]
            drafts[adapter.name] = (
                heldout.drafted(
                    task=task,
                    name=adapter.name,
                    method=adapter.method,
                    training=self._training(adapter, task, result, beside),
                    logits=answers,
                    base=base,
                    arch=vit.arch,
                    precision=loader.precision,
                ),
                answered(logits=answers),
            )
        return drafts

    def _training(
        self, adapter: Planned, task: TaskRecord, trained: Trained, beside: Sequence[str]
    ) -> dict[str, Any]:
        """How an adapter was made, for its manifest; `beside` are those that shared its forwards."""
        return adapter.recipe.model_dump(exclude={"method", "config"}) | {
            "rates_for": adapter.rates_for or None,
            "recipe_digest": self._recipe_digest(adapter, task),
            **self._data.record(),
            "beside": list(beside),
            "losses": [round(loss, 6) for loss in trained.losses],
            "epoch": trained.epoch,
            "accuracies": {str(epoch): accuracy for epoch, accuracy in trained.accuracies.items()},
            "device": str(self._device),
            "versions": package_versions(),
            **({"sweep": self._sweeps[adapter.name]} if adapter.name in self._sweeps else {}),
        }

    def _measuring(self, task: TaskRecord, trained: Sequence[tuple[Planned, Trained]]) -> Loader:
        """A loader of the precision that the adapters are measured in."""
        on_host = self._device.type == "cpu"
        exact = self._loader if on_host else Loader(self._store, self._backbone, device=self._device)
        subject = Subject(
            name=", ".join(adapter.name for adapter, _ in trained),
            image_size=task.spec.preprocess.image_size,
            models=partial(models_of, task, trained),
        )
        return checked(self._job.measure_precision, exact, [subject], self._reporter.note)
