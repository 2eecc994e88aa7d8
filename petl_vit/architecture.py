"""What a plain pre-norm ViT of timm is: its facts, and refusals of what the forward does not compute.

timm is the source of the facts; its model is built without memory for parameters and read, never run.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import timm
import timm.layers as timm_layers
import torch
import torch.nn.functional as F
from timm.models import vision_transformer as timm_vit
from torch import Tensor, nn

from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Corrupt, InvalidInput, Unsupported

Shapes = dict[str, tuple[int, ...]]

_ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.GELU: F.gelu,
    timm_layers.GELUTanh: partial(F.gelu, approximate="tanh"),
    timm_layers.QuickGELU: timm_layers.quick_gelu,
}


def _activation(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What a module of timm computes, or None if this forward does not."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return _ACTIVATIONS[timm_layers.GELUTanh]
    return _ACTIVATIONS.get(type(module))


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The facts of one ViT that the forward and the methods need."""

    name: str
    width: int
    depth: int
    heads: int
    hidden: int
    patch_size: int
    image_size: int
    class_token: bool
    register_tokens: int
    position_of_prefix: bool  # whether the position embedding covers class and register tokens
    pre_norm: bool
    final_norm: str  # "norm" before pooling or "fc_norm" after it
    pool: str  # "token", "avg" or "map" (attention pooling)
    eps: float
    activation: Callable[[Tensor], Tensor]
    layer_scale: bool
    shapes: Mapping[str, tuple[int, ...]]  # every parameter, by timm's name

    @property
    def prefix_tokens(self) -> int:
        return int(self.class_token) + self.register_tokens

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def norms(self) -> tuple[str, ...]:
        """Sites of all LayerNorms, in order of the forward; attention pooling has none."""
        blocks = (f"blocks.{i}.{norm}" for i in range(self.depth) for norm in ("norm1", "norm2"))
        return (*(("norm_pre",) if self.pre_norm else ()), *blocks, self.final_norm)

    def at(self, image_size: int) -> "Architecture":
        """The same architecture for another image size, in pixels.

        Raises:
            InvalidInput: The size is no multiple of the patch size.
        """
        if image_size % self.patch_size:
            near = max(1, round(image_size / self.patch_size)) * self.patch_size
            raise InvalidInput(
                f"{image_size} px is no multiple of the patch size {self.patch_size} of {self.name}",
                field="image_size",
                remedy=f"use {near}",
            )
        prefix = self.prefix_tokens if self.position_of_prefix else 0
        tokens = (image_size // self.patch_size) ** 2 + prefix
        shapes = dict(self.shapes) | {"pos_embed": (1, tokens, self.width)}
        return Architecture(**(self.__dict__ | {"image_size": image_size, "shapes": shapes}))


def _fail(config: BackboneConfig, what: str) -> Unsupported:
    return Unsupported(
        f"architecture {config.architecture!r} is not supported: {what}",
        field="architecture",
        remedy="use a plain ViT of timm.models.vision_transformer (ViT, DeiT, CLIP, DINOv2, MAE, SigLIP)",
    )


def _build(config: BackboneConfig) -> Any:
    """timm's model without memory for its parameters, or a refusal by name."""
    name = config.architecture.partition(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models("vit_*") + timm.list_models("deit*"), n=3)
        remedy = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models('vit_*')"
        raise Unsupported(f"timm has no model {name!r}", field="architecture", remedy=remedy)
    try:
        with torch.device("meta"):
            options: dict[str, Any] = {"img_size": config.image_size, **config.options}
            model = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise _fail(config, f"timm cannot build it ({error})") from error
    if type(model) is not timm_vit.VisionTransformer:
        raise _fail(config, f"its class is {type(model).__name__}")
    return model


def _check(config: BackboneConfig, model: Any) -> None:
    """Refuses every variation that the forward does not compute."""
    identity = nn.Identity
    if type(model.patch_embed) is not timm_layers.PatchEmbed or type(model.patch_embed.norm) is not identity:
        raise _fail(config, "its patch embedding is not one plain convolution")
    if model.pos_embed is None:
        raise _fail(config, "it has no learned position embedding")
    if model.global_pool not in ("token", "avg", "map") or model.pool_include_prefix:
        raise _fail(config, f"its pooling is {model.global_pool!r}")
    norms = [m for m in (model.norm_pre, model.norm, model.fc_norm) if type(m) is not identity]
    for block in model.blocks:
        if type(block) is not timm_vit.Block:
            raise _fail(config, f"its blocks are {type(block).__name__}")
        if not _is_plain(block, model.embed_dim):
            raise _fail(config, "its attention or MLP is not the plain one")
        norms += [block.norm1, block.norm2]
    if model.attn_pool is not None:
        if not _is_plain_pool(model.attn_pool, model.blocks[0], model.embed_dim):
            raise _fail(config, "its attention pooling is not the plain one")
        norms.append(model.attn_pool.norm)
    if any(not isinstance(norm, nn.LayerNorm) for norm in norms) or len({norm.eps for norm in norms}) != 1:
        raise _fail(config, "its norms are not LayerNorms with one epsilon")
    if (type(model.norm) is identity) == (type(model.fc_norm) is identity):
        raise _fail(config, "it has not exactly one final norm")
    if _activation(model.blocks[0].mlp.act) is None:
        raise _fail(config, f"its activation is {type(model.blocks[0].mlp.act).__name__}")


def _is_plain(block: Any, width: int) -> bool:
    """Whether attention and MLP are what the forward computes."""
    attention, mlp = block.attn, block.mlp
    return bool(
        type(attention) is timm_layers.Attention
        and type(mlp) is timm_layers.Mlp
        and type(attention.q_norm) is type(attention.norm) is type(mlp.norm) is nn.Identity
        and attention.gate is None
        and attention.attn_dim == width
        and type(mlp.fc1) is nn.Linear
    )


def _is_plain_pool(pool: Any, block: Any, width: int) -> bool:
    """Whether attention pooling is one projected query over all tokens, and an MLP like the blocks'."""
    return bool(
        type(pool) is timm_layers.AttentionPoolLatent
        and pool.latent_len == 1
        and pool.pool == "token"
        and pool.pos_embed is None
        and type(pool.q) is type(pool.kv) is type(pool.proj) is nn.Linear
        and type(pool.q_norm) is type(pool.k_norm) is nn.Identity
        and pool.num_heads == block.attn.num_heads
        and pool.latent.shape[-1] == pool.kv.in_features == pool.proj.out_features == width
        and type(pool.mlp) is timm_layers.Mlp
        and type(pool.mlp.norm) is nn.Identity
        and type(pool.mlp.fc1) is nn.Linear
        and _activation(pool.mlp.act) is _activation(block.mlp.act)
    )


@lru_cache(maxsize=32)
def _describe(serialised: str) -> Architecture:
    config = BackboneConfig.model_validate_json(serialised)
    model = _build(config)
    _check(config, model)
    block = model.blocks[0]
    activation = _activation(block.mlp.act)
    assert activation is not None  # checked above
    return Architecture(
        name=config.architecture,
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=block.attn.num_heads,
        hidden=block.mlp.fc1.out_features,
        patch_size=model.patch_embed.patch_size[0],
        image_size=config.image_size,
        class_token=model.cls_token is not None,
        register_tokens=model.num_reg_tokens,
        position_of_prefix=not model.no_embed_class,
        pre_norm=type(model.norm_pre) is not nn.Identity,
        final_norm="fc_norm" if type(model.norm) is nn.Identity else "norm",
        pool=model.global_pool,
        eps=block.norm1.eps,
        activation=activation,
        layer_scale=type(block.ls1) is not nn.Identity,
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
    )


def describe(config: BackboneConfig) -> Architecture:
    """The architecture that a config names.

    Raises:
        Unsupported: timm does not have it, or this forward does not compute it.
    """
    return _describe(config.model_dump_json())


def check_supported(config: BackboneConfig) -> None:
    """Raises `Unsupported` where `describe` would."""
    describe(config)


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, what: str) -> None:
    """Raises `Corrupt` unless the tensors have exactly the names and shapes that are expected."""
    missing = sorted(shapes.keys() - tensors.keys())
    extra = sorted(tensors.keys() - shapes.keys())
    for label, names in (("lacks", missing), ("has unexpected", extra)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise Corrupt(
                f"{what} {label} {shown}",
                field="tensors",
                remedy="it was made for another backbone or method; train or import it again",
            )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise Corrupt(
                f"{what}: {name} has shape {tuple(tensors[name].shape)}, expected {shape}",
                field="tensors",
                remedy="it was made for another backbone, image size or config; train it again",
            )
