from typing import Any

import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from training.run.recipe import Recipe
from training.run.trainer import Trained, Trainer


def trainer(vit: FrozenViT, base_head: LinearHead, chosen: Recipe, **values: Any) -> Trainer:
    method = methods.get(chosen.method).configure(chosen.config)
    return Trainer(vit, method, base_head, chosen, **values)


def tensors(trained: Trained) -> dict[str, Tensor]:
    return trained.tensors | trained.head.tensors()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
