"""When the list answers, and when timm has to."""

from typing import Any

import pytest

from petl_vit import plain_vits
from petl_vit.architecture import describe
from petl_vit.backbone import BackboneConfig

HALF = (0.5, 0.5, 0.5)


def found(architecture: str, **options: Any) -> plain_vits.Facts | None:
    config = BackboneConfig(architecture=architecture, options=options, image_size=224, mean=HALF, std=HALF)
    return plain_vits.find(config)


def test_the_tag_of_weights_is_not_part_of_an_architecture() -> None:
    assert found("vit_base_patch16_224.augreg_in21k") == found("vit_base_patch16_224")


@pytest.mark.parametrize(
    "options",
    [
        {"init_values": 1e-5},
        {"depth": 0},
        {"depth": "2"},
        {"depth": True},
        {"num_heads": 5},
        {"embed_dim": 100},
        {"global_pool": "max"},
    ],
    ids=str,
)
def test_timm_is_asked_about_options_that_the_list_does_not_know(options: dict[str, Any]) -> None:
    assert found("vit_base_patch16_224", **options) is None


def test_timm_is_asked_about_the_width_of_a_gated_mlp_that_it_rounds() -> None:
    narrow = BackboneConfig(
        architecture="vit_7b_patch16_dinov3",
        options={"depth": 1, "embed_dim": 48, "num_heads": 3},
        image_size=32,
        mean=HALF,
        std=HALF,
    )
    assert describe(narrow).hidden == 128
    assert found("vit_7b_patch16_dinov3", depth=1) is not None


@pytest.mark.parametrize("name", ["resnet18", "vit_base_patch16_rpn_224", "vit_bese_patch16_224"])
def test_timm_is_asked_about_what_is_not_listed(name: str) -> None:
    assert found(name) is None


def test_a_vit_of_another_depth_and_width_keeps_the_rest() -> None:
    facts = found("vit_base_patch16_224", depth=2, embed_dim=96, num_heads=3)
    assert facts is not None
    assert (facts.depth, facts.width, facts.heads, facts.hidden) == (2, 96, 3, 384)
    assert facts.shapes(32)["pos_embed"] == (1, 5, 96)
