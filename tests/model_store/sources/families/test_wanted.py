"""The options that make a listed architecture the one that a config describes."""

from model_store.sources.families.described import Wanted
from petl_vit.architecture import describe
from petl_vit.backbone import BackboneConfig

HALF = (0.5, 0.5, 0.5)


def test_a_gated_mlp_that_timm_would_round_keeps_its_width() -> None:
    wanted = Wanted(
        width=48,
        depth=1,
        heads=3,
        hidden=96,
        patch_size=16,
        activation="swiglu",
        qkv_bias=True,
        register_tokens=4,
        pool="avg",
    )
    name, options = wanted.nearest("vit_7b_patch16_dinov3", 224)
    config = BackboneConfig(architecture=name, options=options, image_size=32, mean=HALF, std=HALF)
    assert describe(config).hidden == 96
