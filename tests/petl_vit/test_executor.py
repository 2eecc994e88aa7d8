"""An executor that overrides nothing is the frozen model."""

import pytest
import torch

from petl_vit.executor import Executor
from petl_vit.executors.functional import Functional
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import images_of
from tests.petl_vit.backbones import FAMILIES, family


class Frozen(Executor):
    """Overrides nothing."""

    def __init__(self, vit: FrozenViT) -> None:
        self.arch, self.params = vit.arch, vit.params


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_executor_that_overrides_nothing_is_the_frozen_model(kind: str) -> None:
    vit, _ = family(kind)
    images = images_of(vit)
    with torch.no_grad():
        assert torch.equal(vit.forward(images, Frozen(vit)), vit.forward(images, Functional(vit, [])))
