"""A small world for the store's tests: one backbone, one task, drafts of adapters. D = 3, C = 2."""

from pathlib import Path

import torch
from torch import Tensor

from model_store.format.records import BackboneRecord, Draft, TaskRecord, TaskSpec
from model_store.store import Store
from petl_vit.backbone import BackboneConfig
from petl_vit.image_input import Preprocess

CONFIG = BackboneConfig(
    architecture="vit_tiny_patch16_224", image_size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
PREPROCESS = Preprocess(image_size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class World:
    """A store with a backbone and the task `digits`, and what to publish in it."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.backbone: BackboneRecord = store.backbones.put("tiny.one", CONFIG, self.weights(1.0), "random")
        self.task: TaskRecord = store.tasks.put(self.spec(), self.head(0.0))

    def weights(self, value: float) -> dict[str, Tensor]:
        return {"cls_token": torch.full((1, 1, 3), value), "norm.bias": torch.zeros(3)}

    def head(self, value: float) -> dict[str, Tensor]:
        return {"head.weight": torch.full((2, 3), value), "head.bias": torch.zeros(2)}

    def spec(self, name: str = "digits", classes: tuple[str, ...] = ("zero", "one")) -> TaskSpec:
        return TaskSpec.of(
            name=name, classes=classes, preprocess=PREPROCESS, backbone_digest=self.backbone.digest
        )

    def draft(self, name: str = "lora", task: TaskRecord | None = None, temperature: float = 1.0) -> Draft:
        task = task or self.task
        return Draft.of(
            task=task.spec.name,
            name=name,
            method="lora",
            config={"rank": 4, "scale": 0.1},
            backbone_digest=self.backbone.digest,
            task_digest=task.digest,
            temperature=temperature,
            metrics={"accuracy": 0.9},
            training={"seed": 0, "data": {"digest": "abc"}},
        )

    def adapter(self, value: float) -> dict[str, Tensor]:
        return {"blocks.0.attn.qkv.lora_a": torch.full((3, 4), value)} | self.head(value)
