"""The depth of a backbone without its architecture, as its architecture has it."""

import pytest

from petl_vit.architecture import describe
from petl_vit.depth import depth_of
from petl_vit.errors import Unsupported
from tests.petl_vit.backbones import FAMILIES, config_of


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("depth", [None, 2])
def test_the_depth_is_that_of_the_architecture(kind: str, depth: int | None) -> None:
    architecture, image_size, options = FAMILIES[kind]
    config = config_of(architecture, image_size, options, depth=depth)
    assert depth_of(config) == describe(config).depth


def test_timm_is_asked_about_what_is_not_listed() -> None:
    with pytest.raises(Unsupported, match="vit_small_patch16_18x2_224"):
        depth_of(config_of("vit_small_patch16_18x2_224", 224, depth=None))
