"""A store in memory with a tiny backbone and a task, for what is registered."""

import torch

from model_store.format.records import TaskRecord, TaskSpec
from model_store.store import Store
from petl_vit.architecture import describe
from petl_vit.backbone import BackboneConfig
from petl_vit.image_input import Preprocess

WIDTH, DEPTH = 24, 1
_HALF = (0.5, 0.5, 0.5)


def small_store() -> tuple[Store, TaskRecord]:
    """The store, and its task `digits` of two classes."""
    config = BackboneConfig(
        architecture="vit_tiny_patch16_224",
        options={"depth": DEPTH, "embed_dim": WIDTH},
        image_size=32,
        mean=_HALF,
        std=_HALF,
    )
    store = Store.open("memory:///")
    weights = {name: torch.zeros(shape) for name, shape in describe(config).shapes.items()}
    backbone = store.backbones.put("tiny", config, weights, "zeros")
    spec = TaskSpec.of(
        name="digits",
        classes=("zero", "one"),
        preprocess=Preprocess(image_size=32, mean=_HALF, std=_HALF),
        backbone_digest=backbone.digest,
    )
    head = {"head.weight": torch.zeros(2, WIDTH), "head.bias": torch.zeros(2)}
    return store, store.tasks.put(spec, head)
