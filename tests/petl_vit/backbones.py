"""Small random backbones of every supported family, with timm's own model beside each."""

import copy
from functools import lru_cache

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from petl_vit.backbone import CLASS_AND_MEAN, BackboneConfig
from petl_vit.timm_names import canonical
from petl_vit.vit import FrozenViT
from tests.petl_vit.plain_eva import plain

Model = VisionTransformer | Eva

HALF = (0.5, 0.5, 0.5)

FAMILIES: dict[str, tuple[str, int, tuple[tuple[str, str], ...]]] = {
    "plain": ("vit_tiny_patch16_224", 32, ()),
    "mean-pooled": ("vit_tiny_patch16_224", 32, (("global_pool", "avg"),)),
    "dinov2": ("vit_small_patch14_reg4_dinov2", 28, ()),
    "clip": ("vit_base_patch16_clip_224", 32, ()),
    "siglip": ("vit_base_patch32_siglip_256", 64, ()),
    "class-and-mean": ("vit_small_patch14_reg4_dinov2", 28, (("global_pool", CLASS_AND_MEAN),)),
    "swiglu": ("vit_giant_patch14_reg4_dinov2", 28, ()),
    "dinov3": ("vit_small_patch16_dinov3_qkvb", 48, ()),
    "dinov3-plus": ("vit_small_plus_patch16_dinov3", 48, (("global_pool", "token"),)),
    "pe-core": ("vit_pe_core_base_patch16_224", 48, ()),
    "internvit": ("vit_intern300m_patch14_448", 28, ()),
}
DEPTH = 3


def config_of(
    architecture: str,
    image_size: int,
    options: tuple[tuple[str, str | int | float], ...] = (),
    depth: int | None = DEPTH,
) -> BackboneConfig:
    extra: dict[str, bool | int | float | str | None] = dict(options)
    if depth is not None:
        extra["depth"] = depth
    return BackboneConfig(
        architecture=architecture, image_size=image_size, options=extra, mean=HALF, std=HALF
    )


@lru_cache
def timm_model(config_json: str, seed: int = 0) -> Model:
    """timm's model with random weights in which no parameter is left at a trivial value."""
    config = BackboneConfig.model_validate_json(config_json)
    torch.manual_seed(seed)
    model = timm.create_model(
        config.architecture, num_classes=0, img_size=config.image_size, **config.timm_options
    )
    noise = (
        0.1 if isinstance(model, Eva) else 0.02
    )  # so large that attention is not uniform, and angles count
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    return pooled_as(config, model.eval().requires_grad_(False))


def pooled_as(config: BackboneConfig, model: Model) -> Model:
    """The model itself, with the pooling that timm lacks where the config names it."""
    if config.options.get("global_pool") == CLASS_AND_MEAN:
        model.__class__ = type("ClassAndMean", (_ClassAndMean, type(model)), {})
    return model


def tensors_of(model: Model) -> dict[str, torch.Tensor]:
    """The parameters by our names."""
    return canonical(dict(model.named_parameters()))


def _narrow(config: BackboneConfig) -> BackboneConfig:
    """The same architecture, narrower: as exact, and quick."""
    return config.model_copy(update={"options": config.options | {"embed_dim": 96, "num_heads": 3}})


@lru_cache
def family(name: str, *, dtype: torch.dtype = torch.float32, depth: int = DEPTH) -> tuple[FrozenViT, Model]:
    """The backbone of a family, and timm's model with the same weights; all tests share them."""
    architecture, size, options = FAMILIES[name]
    config = _narrow(config_of(architecture, size, options, depth))
    model = timm_model(config.model_dump_json())
    vit = FrozenViT(config, tensors_of(model)).to(dtype=dtype)
    return vit, model if dtype == torch.float32 else _cast(config.model_dump_json(), dtype)


@lru_cache
def _cast(config_json: str, dtype: torch.dtype) -> Model:
    return copy.deepcopy(timm_model(config_json)).to(dtype)


def timm_features(model: Model, images: torch.Tensor) -> torch.Tensor:
    """[B, F] as timm computes them."""
    return model.forward_head(model.forward_features(images), pre_logits=True)


class _ClassAndMean:
    """What timm's models lack: the class token with the mean of the patches behind it."""

    num_prefix_tokens: int

    def pool(self, x: torch.Tensor, pool_type: str | None = None) -> torch.Tensor:
        return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(dim=1)], dim=-1)


@lru_cache
def reference_model(name: str, *, dtype: torch.dtype = torch.float32) -> VisionTransformer:
    """The family's model as a Vision Transformer of timm, which the references change."""
    _, model = family(name, dtype=dtype)
    return model if isinstance(model, VisionTransformer) else plain(model)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())
