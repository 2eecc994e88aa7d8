"""Eight adapters of eight methods for each fold of a labelled set, and what they say of the fold held out.

Every image is answered by members that were trained on other images, so a whole set can be used to learn and
to judge what combines them. A folder keeps what was trained, and a second run trains only what it lacks.

Shapes: n images, K members, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute, backbone_of, resolve
from model_store.routes.text import parse_route
from model_store.sources import backbones
from model_store.store import Store
from petl_vit.precision import Precision
from training.data.dataset import align_classes, subset, without
from training.data.records import Dataset
from training.measure.logit_store import LogitStore
from training.measure.logits import logits_of_routes
from training.progress import Bars
from training.run.job import Job, run_together
from training.run.recipe import Recipe

METHODS = ("lora", "ssf", "adaptformer", "bitfit", "houlsby", "repadapter", "convpass", "fact_tk")
"""Methods that learn in one forward with each other, and enough in a few epochs."""

_MEASURED = 100


def names() -> list[str]:
    """What the adapters are called, in order of their methods."""
    return [method.replace("_", "-") for method in METHODS]


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A member that is trained.

    Attributes:
        config: Of the method.
    """

    name: str
    method: str
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Said:
    """What members say of labelled images.

    Attributes:
        logits: float64 [n, K, C], the members in order of `METHODS`.
        labels: [n].
    """

    name: str
    logits: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How members are trained.

    Attributes:
        precision: Of training.
    """

    image_size: int
    epochs: int
    precision: str = "fp32"
    batch_size: int = 32
    seed: int = 0


def folds_of(dataset: Dataset, count: int, seed: int = 0) -> Iterator[tuple[Dataset, Dataset]]:
    """The training and the held-out images of every fold; copies of an image are in one fold."""
    copies = np.array(dataset.fingerprints)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for train, heldout in splitter.split(np.zeros(len(dataset)), dataset.labels.numpy(), copies):
        yield without(dataset, set(copies[heldout])), without(dataset, set(copies[train]))


def joined(name: str, several: Sequence[Said]) -> Said:
    """What members of several folds say, each of its own images, as of one set."""
    return Said(
        name=name,
        logits=np.concatenate([said.logits for said in several]),
        labels=np.concatenate([said.labels for said in several]),
    )


class Bench:
    """A store in a folder with one backbone, in which members are trained and asked.

    Args:
        source: As `corolla backbones import` takes it.
        architecture: Of a checkpoint file.
    """

    def __init__(self, folder: Path, source: str, architecture: str | None = None) -> None:
        self.folder = folder
        self.store = Store.open(str(folder / "store"))
        if not self.store.backbones.list():
            imported = backbones.read(source, backbones.Request(architecture=architecture))
            self.store.backbones.put("backbone", imported.config, imported.tensors, imported.source)
        self.loader = Loader(self.store, self.store.backbones.get(None))

    def train(
        self,
        task: str,
        train: Dataset,
        heldout: Dataset,
        plan: Plan,
        learners: Sequence[Learner] | None = None,
    ) -> None:
        """Trains the members of a task together, but for those that are registered.

        Args:
            learners: By default one of each of `METHODS`.

        Training measures them on a few held-out images alone, as `ask` measures all.
        """
        few = subset(heldout, min(_MEASURED, len(heldout)), 0)
        data, other = self.written(f"{task}-train", train), self.written(f"{task}-heldout", few)
        eight = [Learner(name=n, method=m, seed=plan.seed) for n, m in zip(names(), METHODS, strict=True)]
        jobs = [
            Job(
                backbone=self.loader.record.digest,
                task=task,
                name=learner.name,
                data=data,
                heldout=other,
                image_size=plan.image_size,
                runs=self.folder / "runs",
                measure_precision=Precision.FP32,
                recipe=Recipe.of(
                    method=learner.method,
                    config=learner.config,
                    epochs=plan.epochs,
                    batch_size=plan.batch_size,
                    drop_path=0.0,
                    seed=learner.seed,
                    precision=plan.precision,
                ),
            )
            for learner in learners or eight
        ]
        run_together(self.store, jobs, Bars())

    def route(self, task: str) -> ResolvedRoute:
        """The mean of all members of a task."""
        route = parse_route(", ".join(names()))
        digest = backbone_of(route, task=task, store=self.store)
        return resolve(route, task=task, store=self.store, backbone_digest=digest)

    def ask(self, task: str, dataset: Dataset, shift: tuple[str, int] | None = None) -> Said:
        """What the members of a task say of images; kept in the folder."""
        route = self.route(task)
        dataset = align_classes(dataset, route.classes)
        kept = LogitStore(self.folder / "logits")
        logits = logits_of_routes(self.loader, [route], dataset, shift=shift, store=kept)
        name = dataset.name if shift is None else f"{shift[0]}:{shift[1]}"
        return Said(name=name, logits=logits.of(route), labels=dataset.labels.numpy())

    def written(self, name: str, dataset: Dataset) -> str:
        """The images of a set in a file of their own; all have one size."""
        path = self.folder / f"{name}.npz"
        pixels = torch.stack([dataset.images[i] for i in range(len(dataset))])
        np.savez(
            path,
            images=pixels.permute(0, 2, 3, 1).numpy(),
            labels=dataset.labels.numpy(),
            classes=np.array(dataset.classes),
        )
        return str(path)
