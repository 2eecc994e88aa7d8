"""A small store for processes that are killed: a ViT of one block, and the task `shapes` of three classes."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.adapters import HALF, base_head, tensors
from benchmarks.kill.operation import Found
from model_store.format.records import BackboneRecord, Draft, TaskRecord, TaskSpec
from model_store.resolution.loading import Loader
from model_store.store import Store
from model_store.verification import verify
from petl_vit import methods, plain_vits
from petl_vit.backbone import BackboneConfig
from petl_vit.image_input import Preprocess
from petl_vit.vit import FrozenViT

TASK = "shapes"
CLASSES = ("circle", "square", "star")
SIZE = 32
_CONFIG = BackboneConfig(
    architecture="vit_tiny_patch16_224",
    options={"depth": 1, "embed_dim": 48},
    image_size=SIZE,
    mean=HALF,
    std=HALF,
)


class World:
    """What is in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(str(folder / "store"))

    @property
    def backbone(self) -> BackboneRecord:
        return self.store.backbones.get("tiny")

    @property
    def task(self) -> TaskRecord:
        return self.store.tasks.get(TASK)

    @property
    def vit(self) -> FrozenViT:
        return Loader(self.store, self.backbone).vit(SIZE)

    def draft(self, name: str, method: str = "lora", task: TaskRecord | None = None) -> Draft:
        task = task or self.task
        return Draft.of(
            task=task.spec.name,
            name=name,
            method=method,
            config=methods.get(method)().model_dump(mode="json"),
            backbone_digest=task.spec.backbone_digest,
            task_digest=task.digest,
        )

    def put_task(self, name: str, vit: FrozenViT) -> TaskRecord:
        """A task of the same classes under another name."""
        preprocess = Preprocess(image_size=SIZE, mean=HALF, std=HALF)
        digest = self.backbone.digest
        spec = TaskSpec.of(name=name, classes=CLASSES, preprocess=preprocess, backbone_digest=digest)
        return self.store.tasks.put(spec, base_head(vit, len(CLASSES)).tensors())


def make(folder: Path) -> World:
    """An empty world: a backbone and a task."""
    world = World(folder)
    generator = torch.Generator().manual_seed(0)
    facts = plain_vits.find(_CONFIG)
    assert facts is not None
    weights = {
        name: torch.ones(shape) if "norm" in name else 0.2 * torch.randn(shape, generator=generator)
        for name, shape in facts.shapes(SIZE).items()
    }
    world.store.backbones.put("tiny", _CONFIG, weights, "random")
    world.put_task(TASK, world.vit)
    return world


def adapter(vit: FrozenViT, seed: int, method: str = "lora") -> dict[str, Tensor]:
    """Random tensors of an adapter, another set for each seed."""
    return tensors(method, vit, seed, len(CLASSES))


def write_images(path: Path, count: int = 45) -> str:
    """Images of three classes that a backbone tells apart: a bright band that lies elsewhere in each."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % len(CLASSES)
    images = generator.integers(0, 60, (count, 9, 9))
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 150
    np.savez(path, images=images.astype(np.uint8), labels=labels, classes=np.array(CLASSES))
    return str(path)


def look(world: World) -> Found:
    """What a verification of the store says, every tensor read."""
    report = verify(world.store)
    return Found(
        broken=[str(problem) for problem in report.problems],
        leftovers=Counter(str(leftover.kind) for leftover in report.leftovers),
    )
