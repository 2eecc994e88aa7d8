"""What timm says of an architecture, and that it is what is listed."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from petl_vit import plain_vits, timm_vit
from petl_vit.architecture import of_facts
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Unsupported
from tests.petl_vit.backbones import config_of

NAMES = (
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "vit_base_patch16_clip_quickgelu_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224",
    "vit_so400m_patch14_siglip_224",
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"depth": 2},
    {"embed_dim": 96, "num_heads": 3},
    {"global_pool": "avg", "depth": 1},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_listed_is_what_timm_builds(name: str, options: dict[str, Any]) -> None:
    size = 224 if "patch14" not in name else 56
    half = (0.5, 0.5, 0.5)
    config = BackboneConfig(architecture=name, options=options, image_size=size, mean=half, std=half)
    facts = plain_vits.find(config)
    if facts is None:
        assert name == "vit_so400m_patch14_siglip_224"  # its MLP is no multiple of its width
        assert "embed_dim" in options
        return
    listed, built = of_facts(config, facts), timm_vit.read(config)
    assert listed == built
    assert list(listed.shapes) == list(built.shapes)


def _longer(pool: Any) -> None:
    pool.latent_len = 2


def _normed(pool: Any) -> None:
    pool.q_norm = torch.nn.LayerNorm(64)


def _placed(pool: Any) -> None:
    pool.pos_embed = torch.nn.Parameter(torch.zeros(4, 768))


def _unprojected(pool: Any) -> None:
    pool.q = torch.nn.Identity()


def _other_activation(pool: Any) -> None:
    pool.mlp.act = torch.nn.ReLU()


@pytest.mark.parametrize("change", [_longer, _normed, _placed, _unprojected, _other_activation])
def test_attention_pooling_of_another_kind_is_refused(
    change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model

    def changed(*arguments: Any, **keywords: Any) -> Any:
        model = create(*arguments, **keywords)
        change(model.attn_pool)
        return model

    monkeypatch.setattr(timm, "create_model", changed)
    config = config_of("vit_base_patch16_siglip_224", 48)
    with pytest.raises(Unsupported, match="its attention pooling is not the plain one"):
        timm_vit.read(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depht": 2}, "option: .* has no option 'depht'; did you mean depth"),
        ({"wings": 2}, "option: .* has no option 'wings'; leave it out"),
        ({"num_heads": 5}, "option: timm cannot build .* with num_heads=5 .*; check these options"),
        ({"act_layer": "no"}, "option: timm cannot build .* with act_layer=no"),
    ],
)
def test_an_option_that_timm_refuses_is_named(options: dict[str, Any], message: str) -> None:
    plain = config_of("vit_tiny_patch16_224", 32, depth=None)
    config = plain.model_copy(update={"options": options})
    with pytest.raises(Unsupported, match=message):
        timm_vit.read(config)
