"""One training job: from names to a registered adapter.

    data -> split -> task and its base head (once) -> train (resumable) -> held-out metrics -> publish

Nothing is registered half-way: the only write that others see is the last one, and it is atomic. A
job that was killed goes on from its last epoch; one that is registered already is not trained again.
"""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from model_store.loading import Loader
from model_store.manifest import Draft, Manifest, TaskRecord, TaskSpec
from model_store.names import BASE, check_name
from model_store.routes import AdapterRef
from model_store.store import Store
from petl_vit import methods
from petl_vit.device import chosen_device
from petl_vit.errors import Conflict, InvalidInput, NotFound
from petl_vit.executors import Functional
from petl_vit.heads import Head
from petl_vit.preprocess import Preprocess
from petl_vit.vit import FrozenViT, describe
from training import data, probe
from training.calibration import fit_temperature, measure
from training.checkpoint import Checkpoint
from training.images import Resized
from training.recipe import Recipe
from training.trainer import Trained, Trainer


class Reporter(Protocol):
    """Tells people how far a long piece of work is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` units; the callable advances it."""

    def note(self, text: str) -> None:
        """One line worth knowing."""


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda n: None)

    def note(self, text: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on what, and where it goes.

    Attributes:
        backbone: Name or digest in the store.
        task, name: Where the adapter is registered.
        data: Training images; see `training.data.load`.
        heldout: A held-out set of its own, or None to split `holdout` off the training images.
        split_seed: Decides the split; the same for all adapters of a task, so that none is measured on
            images that the base head was fitted to.
        limit: At most so many training images, or None.
        image_size: Input size of a new task, pixels; None means the backbone's native size.
        resize: How images of a new task reach that size; None means squash.
        runs: Folder for the state of unfinished runs.
        again: Train and register even if the same run is registered already.
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
    image_size: int | None = None
    resize: Literal["squash", "crop"] | None = None
    device: str = "cpu"
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job came to.

    Attributes:
        manifest: The registered adapter.
        reused: Whether it was registered before and nothing was trained.
    """

    manifest: Manifest
    reused: bool


def run(store: Store, job: Job, reporter: Reporter | None = None) -> Outcome:
    """Trains, measures and registers an adapter.

    Raises:
        NotFound: The backbone or the data do not exist.
        InvalidInput: A setting or the data cannot work, or the task exists with other classes or
            another input; names it.
    """
    return _Run(store, job, reporter or Silent()).outcome()


class _Run:
    """The steps of a job, each a method, in order of `outcome`."""

    def __init__(self, store: Store, job: Job, reporter: Reporter) -> None:
        self._store, self._job, self._reporter = store, job, reporter
        _check_names(job)
        self._device = chosen_device(job.device)
        self._method = methods.get(job.recipe.method).configure(job.recipe.config)
        self._backbone = store.backbone(job.backbone)
        self._dataset, self._heldout = self._split()

    @cached_property
    def _loader(self) -> Loader:
        """Read when it is needed: a run that is registered already needs no weights."""
        return Loader(self._store, self._backbone, device=self._device)

    def outcome(self) -> Outcome:
        task = self._existing_task()
        if task is not None and not self._job.again and (found := self._registered(task)):
            self._checkpoint(self._recipe_digest(task)).remove()
            return Outcome(manifest=found, reused=True)
        spec = task.spec if task is not None else self._new_spec()
        # Refuses settings that do not fit this backbone, before anything is stored.
        self._method.shapes(describe(self._backbone.config).at(spec.preprocess.image_size))
        vit = self._loader.vit(spec.preprocess.image_size)
        train, heldout = (self._images(d, spec, vit, what) for d, what in self._parts())
        task = task or self._put_task(spec, vit, train)
        base_head = self._loader.base_head(task)
        trained, recipe_digest = self._train(task, vit, base_head, train)
        checkpoint = self._checkpoint(recipe_digest)
        draft = self._draft(task, recipe_digest, trained)
        draft = self._measured(draft, vit, base_head, trained, heldout)
        manifest = self._store.publish(draft, trained.tensors | trained.head.tensors())
        checkpoint.remove()
        return Outcome(manifest=manifest, reused=False)

    def _parts(self) -> tuple[tuple[data.Dataset, str], tuple[data.Dataset, str]]:
        return (self._dataset, "reading training images"), (self._heldout, "reading held-out images")

    def _split(self) -> tuple[data.Dataset, data.Dataset]:
        job = self._job
        dataset = data.load(job.data)
        if job.heldout is not None:
            train, heldout = dataset, data.align(data.load(job.heldout, field="heldout"), dataset.classes)
        else:
            train, heldout = data.split(dataset, holdout=job.holdout, seed=job.split_seed)
        if job.limit is None or job.limit >= len(train):
            return train, heldout
        if job.limit < len(train.classes):
            raise InvalidInput(
                f"{job.limit} images cannot cover the {len(train.classes)} classes of {train.name}",
                field="limit",
                remedy=f"use at least {len(train.classes)}",
            )
        return data.subset(train, job.limit, job.split_seed), heldout

    def _existing_task(self) -> TaskRecord | None:
        """The task as it stands on this backbone; the data's classes are brought into its order."""
        try:
            task = self._store.task(self._job.task, self._backbone.digest)
        except NotFound:
            return None
        self._check_task(task.spec)
        self._dataset = data.align(self._dataset, task.spec.classes)
        self._heldout = data.align(self._heldout, task.spec.classes)
        return task

    def _check_task(self, spec: TaskSpec) -> None:
        """Refuses what the task, as it stands, would ignore."""
        job, preprocess = self._job, spec.preprocess
        for field, asked, stands in (
            ("image-size", job.image_size, preprocess.image_size),
            ("resize", job.resize, preprocess.resize),
        ):
            if asked not in (None, stands):
                raise InvalidInput(
                    f"task {spec.name!r} has {stands}, not {asked}",
                    field=field,
                    remedy="leave it out, or choose another --task name",
                )
        differ = sorted(set(spec.classes) ^ set(self._dataset.classes))
        if differ:
            more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
            raise InvalidInput(
                f"task {spec.name!r} has other classes than {self._dataset.name}: "
                f"they differ in {', '.join(differ[:5])}{more}",
                field="data",
                remedy="choose another --task name for other classes",
            )

    def _new_spec(self) -> TaskSpec:
        config = self._backbone.config
        preprocess = Preprocess(
            image_size=self._job.image_size or config.image_size,
            resize=self._job.resize or "squash",
            mean=config.mean,
            std=config.std,
        )
        return TaskSpec.of(
            name=self._job.task,
            classes=self._dataset.classes,
            preprocess=preprocess,
            backbone_digest=self._backbone.digest,
        )

    def _images(self, dataset: data.Dataset, spec: TaskSpec, vit: FrozenViT, what: str) -> Resized:
        kind = self._job.recipe.augment
        with self._reporter.stage(what, len(dataset)) as advance:
            images = Resized(dataset, spec.preprocess, vit, augmentation=kind, advance=advance)
        if not images.kept:
            self._reporter.note(f"{dataset.name} is too large to keep, so it is decoded again every epoch")
        return images

    def _put_task(self, spec: TaskSpec, vit: FrozenViT, train: Resized) -> TaskRecord:
        """Fits the linear probe that is the task's alpha = 0 end, once, and stores it."""
        with self._reporter.stage("fitting the base head", len(train)) as advance:
            found = probe.features(vit, (train.batch(i) for i in train.batches()), advance)
            head = probe.fit(found, train.labels, len(spec.classes))
        try:
            return self._store.put_task(spec, head.tensors())
        except Conflict:  # another run of the same task was faster; its base head stands
            task = self._store.task(spec.name, spec.backbone_digest)
            if task.spec != spec:
                raise
            return task

    def _recipe_digest(self, task: TaskRecord) -> str:
        return self._job.recipe.model_copy(update={"config": self._method.model_dump(mode="json")}).digest(
            backbone=self._backbone.digest, task=task.digest, data=self._dataset.digest
        )

    def _registered(self, task: TaskRecord) -> Manifest | None:
        """The newest version of this name that came from this very run, if any."""
        wanted = self._recipe_digest(task)
        try:
            newest = self._store.resolve(AdapterRef(name=self._job.name), self._job.task)
        except NotFound:
            return None
        if newest.training.get("recipe_digest") != wanted:
            return None
        if newest.training.get("heldout_digest") != self._heldout.digest:
            self._reporter.note(f"{newest} was measured on other held-out images; see corolla evaluate")
        return newest

    def _checkpoint(self, recipe_digest: str) -> Checkpoint:
        return Checkpoint(path=self._job.runs / f"{recipe_digest}.pt")

    def _train(
        self, task: TaskRecord, vit: FrozenViT, base_head: Head, train: Resized
    ) -> tuple[Trained, str]:
        recipe, digest = self._job.recipe, self._recipe_digest(task)
        checkpoint = self._checkpoint(digest)
        checkpoint.prepare()
        trainer = Trainer(vit, self._method, base_head, recipe, save=checkpoint.save)
        state = checkpoint.load()
        done = trainer.resume(state) if state is not None else 0
        if done:
            self._reporter.note(f"resuming after epoch {done} of {recipe.epochs}")
        with self._reporter.stage(
            f"training {recipe.method}", (recipe.epochs - done) * trainer.steps(train)
        ) as advance:
            return trainer.run(train, progress=lambda loss: advance(1)), digest

    def _draft(self, task: TaskRecord, recipe_digest: str, trained: Trained) -> Draft:
        job = self._job
        settings = job.recipe.model_dump(exclude={"method", "config"})
        training: dict[str, Any] = settings | {
            "recipe_digest": recipe_digest,
            "data": self._dataset.name,
            "data_digest": self._dataset.digest,
            "images": len(self._dataset),
            "heldout": self._heldout.name,
            "heldout_digest": self._heldout.digest,
            "heldout_images": len(self._heldout),
            "holdout": job.holdout if job.heldout is None else None,
            "split_seed": job.split_seed,
            "limit": job.limit,
            "losses": [round(loss, 6) for loss in trained.losses],
            "device": str(self._device),
            "versions": _versions(),
        }
        return Draft.of(
            task=job.task,
            name=job.name,
            method=job.recipe.method,
            config=self._method.model_dump(mode="json"),
            backbone_digest=self._backbone.digest,
            task_digest=task.digest,
            training=training,
        )

    def _measured(
        self, draft: Draft, vit: FrozenViT, base_head: Head, trained: Trained, heldout: Resized
    ) -> Draft:
        """The draft with its temperature and held-out metrics."""
        tensors = {name: t.to(vit.device) for name, t in trained.tensors.items()}
        with self._reporter.stage("measuring on held-out images", len(heldout)) as advance:
            run = Functional(vit, self._method.edits(vit, tensors))
            logits = _logits(vit, run, trained.head, heldout, advance)
        with self._reporter.stage("measuring the base", len(heldout)) as advance:
            base = _logits(vit, Functional(vit, []), base_head, heldout, advance)
        temperature = fit_temperature(logits, heldout.labels)
        metrics = measure(logits, heldout.labels, temperature=temperature)
        metrics |= {
            "base_accuracy": measure(base, heldout.labels, temperature=1.0)["accuracy"],
            "parameters": float(self._method.parameters(vit.arch)),
        }
        return draft.model_copy(update={"temperature": temperature, "metrics": metrics})


@torch.inference_mode()
def _logits(
    vit: FrozenViT, run: Functional, head: Head, images: Resized, advance: Callable[[int], None]
) -> Tensor:
    """[n, C] on the CPU."""
    head, found = head.to(device=vit.device, dtype=vit.dtype), []
    for indices in images.batches():
        found.append(head.logits(vit.forward(images.batch(indices), run)).float().cpu())
        advance(len(indices))
    return torch.cat(found)


def _check_names(job: Job) -> None:
    """Refuses names that could not be registered, before anything is trained."""
    check_name(job.task, "task")
    if check_name(job.name, "name") == BASE:
        raise InvalidInput("`base` means the frozen backbone", field="name", remedy="choose another name")


def _versions() -> dict[str, str]:
    packages = ("torch", "timm", "numpy", "scikit-learn", "corolla")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
