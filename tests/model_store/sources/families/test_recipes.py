"""The options that docs/backbones.md names for an encoder of pathology give that encoder's parameters."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from torch import nn

from petl_vit.architecture import describe
from petl_vit.backbone import BackboneConfig
from tests.petl_vit.backbones import HALF

PAGE = Path(__file__).parents[4] / "docs" / "backbones.md"
GATED: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "init_values": 1e-5}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "UNI2-h": (
        "vit_giant_patch14_224",
        GATED
        | {"embed_dim": 1536, "depth": 24, "num_heads": 24, "mlp_ratio": 5.33334}
        | {"reg_tokens": 8, "no_embed_class": True},
    ),
    "Virchow 2": ("vit_huge_patch14_224", GATED | {"mlp_ratio": 5.3375, "reg_tokens": 4}),
    "UNI": ("vit_large_patch16_224", {"init_values": 1e-5}),
}
"""What their model cards have for timm.create_model."""


@pytest.mark.parametrize("name", RECIPES)
def test_its_options_give_its_parameters(name: str) -> None:
    row = next(
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} |")
    )
    architecture = re.search(r"--architecture (\S+)", row)
    assert architecture is not None
    options = {key: json.loads(value) for key, value in re.findall(r"--option (\w+)=([^\s`]+)", row)}
    config = BackboneConfig(
        architecture=architecture[1], options=options, image_size=224, mean=HALF, std=HALF
    )
    recipe, keywords = RECIPES[name]
    with torch.device("meta"):
        model = timm.create_model(recipe, num_classes=0, img_size=224, weight_init="skip", **keywords)
    arch = describe(config)
    assert dict(arch.shapes) == {n: tuple(p.shape) for n, p in model.named_parameters()}
    block: Any = model.blocks[0]
    assert (arch.heads, arch.eps) == (block.attn.num_heads, block.norm1.eps)
