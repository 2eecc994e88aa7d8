"""Where an adapter starts: as its method says, or as the study's published runs did."""

import pytest
import torch

from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import recipe
from training.run.trainer import Trainer


@pytest.mark.parametrize("name", ["lora", "convpass"])
def test_the_recipe_decides_where_an_adapter_starts(name: str, vit: FrozenViT, base_head: LinearHead) -> None:
    method = methods.get(name)()
    starts = {
        "method": method.init(vit, torch.Generator().manual_seed(3)),
        "published": method.init_published(vit, torch.Generator().manual_seed(3)),
    }
    for init, start in starts.items():
        trainer = Trainer(vit, method, base_head, recipe(name, init=init, seed=3))
        assert all(torch.equal(trainer.parameters[tensor], value) for tensor, value in start.items())
