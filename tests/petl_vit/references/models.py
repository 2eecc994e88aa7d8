"""The references themselves, against timm, hand-folded weights and hand-written loops, without `petl_vit`."""

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor

from tests.petl_vit.reference import REFERENCES
from tests.petl_vit.reference.tensors import random_tensors

METHODS: list[str] = list(REFERENCES)
PROMPTED = ("vpt_deep", "vpt_shallow")
BRANCHED = ("adaptformer", "pfeiffer", "houlsby", "convpass")
FOLDED = (
    "lora",
    "dora",
    "vera",
    "ia3",
    "ssf",
    "bitfit",
    "layernorm",
    "difffit",
    "fact_tt",
    "fact_tk",
    "repadapter",
)
SCALE = 0.7
NARROW = {"embed_dim": 48, "num_heads": 3}
SHORT = NARROW | {"depth": 3}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": (32, 48), **NARROW}),
    "mean_pooled": ("vit_tiny_patch16_224", {"img_size": 48, "global_pool": "avg", **SHORT}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {"img_size": 48, **SHORT}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"img_size": 42, **SHORT}),
}


Weights = dict[str, Tensor]


def create(key: str) -> VisionTransformer:
    """Seeded, float64, and with no parameter at a neutral value that could hide a mistake."""
    name, options = ARCHITECTURES[key]
    model = timm.create_model(name, num_classes=0, **options).double().eval().requires_grad_(False)
    assert isinstance(model, VisionTransformer)
    noise = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
    return model


def random_images(model: VisionTransformer) -> Tensor:
    size = model.patch_embed.img_size
    assert size is not None
    return torch.randn(2, 3, *size, generator=Generator().manual_seed(2), dtype=torch.float64)


def tensors_of(method: str, model: VisionTransformer, seed: int = 3) -> dict[str, Tensor]:
    generator = Generator().manual_seed(seed)
    return random_tensors(method, model, generator, torch.float64, rank=4, prompts=3)


def plain_feature(model: VisionTransformer) -> Tensor:
    """timm's own pooled feature."""
    return model.forward_head(model.forward_features(random_images(model)), pre_logits=True)


def edited_feature(
    method: str,
    model: VisionTransformer,
    tensors: dict[str, Tensor],
    alpha: float = 1.0,
    scale: float = SCALE,
) -> Tensor:
    built = REFERENCES[method](model, tensors, {"scale": scale}, alpha)
    feature: Tensor = built(random_images(model))
    return feature


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
