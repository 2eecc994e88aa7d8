"""Reads an architecture from timm, and refuses what the forward does not compute.

timm's model is built without memory for its parameters and never run. Models of its class `Eva` differ from
a Vision Transformer as `petl_vit.timm_eva` says.
"""

import inspect
from typing import Any

import timm
import timm.layers as timm_layers
import torch
from timm.models import eva
from timm.models import vision_transformer as timm_vit
from torch import nn
from torch.overrides import TorchFunctionMode

from petl_vit import plain_vits, timm_eva
from petl_vit.architecture import ACTIVATIONS, Architecture, of_facts
from petl_vit.backbone import BackboneConfig, Options
from petl_vit.errors import Unsupported, near
from petl_vit.facts import Activation, AttentionPool, Facts
from petl_vit.timm_names import canonical

_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.GELU: "gelu",
    timm_layers.GELUTanh: "gelu_tanh",
    timm_layers.QuickGELU: "quick_gelu",
}
_ANY = (0.5, 0.5, 0.5)
_MODULES = ("vision_transformer", "deit", "eva")
"""timm's modules with ViTs that the forward computes."""
_POOLS = ("token", "avg", "map")
_INITIALISERS = frozenset({"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"})


def read(config: BackboneConfig) -> Architecture:
    """The architecture that a config names.

    Raises:
        Unsupported: timm does not have it, or the forward does not compute it.
    """
    model = _build(config)
    _check(config, model)
    block = model.blocks[0]
    activation = _activation(block.mlp)
    assert activation is not None  # checked above
    parameters = dict(model.named_parameters())
    is_eva = type(model) is eva.Eva
    return Architecture(
        name=config.architecture,
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=block.attn.num_heads,
        hidden=block.mlp.fc2.in_features,
        patch_size=model.patch_embed.patch_size[0],
        image_size=config.image_size,
        class_token=model.cls_token is not None,
        register_tokens=0 if model.reg_token is None else model.reg_token.shape[1],
        position_of_prefix=model.pos_embed is not None and not model.no_embed_class,
        pre_norm=_is(model.norm_pre),
        final_norm="norm" if _is(model.norm) else "fc_norm" if _is(model.fc_norm) else None,
        pool=model.global_pool,
        eps=block.norm1.eps,
        activation=ACTIVATIONS[activation],
        layer_scale=block.gamma_1 is not None if is_eva else _is(block.ls1),
        positions=model.pos_embed is not None,
        rotary=timm_eva.rotary(model.rope) if is_eva and model.rope is not None else None,
        attention_pool=None if model.attn_pool is None else _attention_pool(model.attn_pool, prefix=is_eva),
        layouts=timm_eva.layouts(block) if is_eva else (),
        shapes={name: tuple(p.shape) for name, p in canonical(parameters).items()},
    )


def listed() -> plain_vits.List:
    """All ViTs of this timm that `petl_vit.plain_vits` describes exactly; takes seconds."""
    rows: dict[Facts, list[str]] = {}
    for name in [name for module in _MODULES for name in timm.list_models(module=module)]:
        facts = _facts(name)
        if facts is not None:
            rows.setdefault(facts, []).append(name)
    vits = (plain_vits.Listed(names=tuple(names), facts=facts) for facts, names in rows.items())
    return plain_vits.List(timm=timm.__version__, vits=tuple(vits))


def _facts(name: str) -> Facts | None:
    """The facts of an architecture; None where they do not describe it exactly."""
    config, arch = _read_quickly(name, {})
    if arch is None:
        return None
    fields = {field: getattr(arch, field) for field in Facts.model_fields if hasattr(arch, field)}
    fields["activation"] = next(name for name, what in ACTIVATIONS.items() if what is arch.activation)
    facts = Facts(qkv_bias="blocks.0.attn.qkv.bias" in arch.shapes, mean_norm=None, **fields)
    pooled_config, pooled = _read_quickly(name, {"global_pool": "avg", "depth": 1})  # all blocks are alike
    if pooled is not None:
        shallow = facts.model_copy(update={"mean_norm": pooled.final_norm, "depth": 1})
        mean_pooled = shallow.mean_pooled()
        if mean_pooled is not None and of_facts(pooled_config, mean_pooled) == pooled:
            facts = facts.model_copy(update={"mean_norm": pooled.final_norm})
    return facts if of_facts(config, facts) == arch else None


def _read_quickly(name: str, options: Options) -> tuple[BackboneConfig, Architecture | None]:
    pretrained = timm.get_pretrained_cfg(name)
    assert pretrained is not None, f"timm lists {name} without a config"
    size = pretrained.input_size[-1]
    config = BackboneConfig(architecture=name, options=options, image_size=size, mean=_ANY, std=_ANY)
    try:
        return config, read(config)
    except Unsupported:
        return config, None


def _is(norm: nn.Module) -> bool:
    """Whether there is a norm."""
    return type(norm) is not nn.Identity


def _attention_pool(pool: Any, *, prefix: bool) -> AttentionPool:
    activation = activation_of(pool.mlp.act)
    assert activation is not None  # checked before
    hidden = pool.mlp.fc1.out_features
    return AttentionPool(heads=pool.num_heads, hidden=hidden, activation=activation, prefix=prefix)


def _activation(mlp: nn.Module) -> Activation | None:
    """What an MLP has between its linears; None where the forward does not compute it."""
    if isinstance(mlp, timm_layers.Mlp):
        return activation_of(mlp.act)
    gates_first = type(mlp) is timm_layers.SwiGLU or (type(mlp) is timm_layers.GluMlp and not mlp.gate_last)
    return "swiglu" if gates_first and isinstance(mlp.act, nn.SiLU) else None


def activation_of(module: nn.Module) -> Activation | None:
    """The name of a timm module's activation; None where the forward does not compute it."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return "gelu_tanh"
    return _ACTIVATIONS.get(type(module))


def _refusal(config: BackboneConfig, why: str) -> Unsupported:
    return Unsupported(
        f"architecture {config.architecture!r} is not supported: {why}",
        field="architecture",
        remedy="use a plain ViT: ViT, DeiT, MAE, CLIP, SigLIP, DINOv2, DINOv3 or PE (docs/backbones.md)",
    )


class _NoValues(TorchFunctionMode):
    """Leaves out what initialises weights, which takes most of the time that a model takes."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in _INITIALISERS:
            (tensor, *_) = (*args, *named.values())
            return tensor
        return func(*args, **named)


def _build(config: BackboneConfig) -> Any:
    """timm's model without memory for its parameters, or a refusal by name."""
    name = config.architecture.partition(".")[0]
    if not timm.is_model(name):
        known = timm.list_models("vit_*") + timm.list_models("deit*")
        remedy = near(name, known) or "see timm.list_models('vit_*')"
        raise Unsupported(f"timm has no model {name!r}", field="architecture", remedy=remedy)
    try:
        with torch.device("meta"), _NoValues():
            options: dict[str, Any] = {"img_size": config.image_size, **config.timm_options}
            model = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (TypeError, AssertionError, KeyError, ValueError, RuntimeError) as error:
        raise _unbuilt(config, error) from error
    if type(model) not in (timm_vit.VisionTransformer, eva.Eva):
        raise _refusal(config, f"its class is {type(model).__name__}")
    return model


def _unbuilt(config: BackboneConfig, error: Exception) -> Unsupported:
    """The error for what timm refuses: of an option where there are some."""
    classes = (timm_vit.VisionTransformer, eva.Eva)
    known = {name for model in classes for name in inspect.signature(model).parameters}
    unknown = [name for name in config.options if name not in known]
    if unknown:
        problem = f"a Vision Transformer of timm has no option {unknown[0]!r}"
        return Unsupported(problem, field="option", remedy=near(unknown[0], known) or "leave it out")
    if config.options:
        chosen = ", ".join(f"{name}={value}" for name, value in config.options.items())
        problem = f"timm cannot build {config.architecture!r} with {chosen} ({error})"
        return Unsupported(problem, field="option", remedy="check these options")
    return _refusal(config, f"timm cannot build it ({error})")


def _check(config: BackboneConfig, model: Any) -> None:
    """Refuses every variation that the forward does not compute."""
    identity = nn.Identity
    if type(model.patch_embed) is not timm_layers.PatchEmbed or type(model.patch_embed.norm) is not identity:
        raise _refusal(config, "its patch embedding is not one plain convolution")
    channels = model.patch_embed.proj.in_channels
    if channels != 3:
        raise _refusal(config, f"it takes images of {channels} channels, and images have three here")
    if model.global_pool not in _POOLS or getattr(model, "pool_include_prefix", False):
        raise _refusal(config, f"its pooling is {model.global_pool!r}")
    why = timm_eva.problem(model) if type(model) is eva.Eva else _problem(model)
    if why is not None:
        raise _refusal(config, why)
    if model.attn_pool is not None and not _is_plain_pool(model.attn_pool, model.embed_dim):
        raise _refusal(config, "its attention pooling is not the plain one")
    norms = [norm for block in model.blocks for norm in (block.norm1, block.norm2)]
    norms += [norm for norm in (model.norm_pre, model.norm, model.fc_norm) if _is(norm)]
    norms += [] if model.attn_pool is None else [model.attn_pool.norm]
    if any(not isinstance(norm, nn.LayerNorm) for norm in norms) or len({norm.eps for norm in norms}) != 1:
        raise _refusal(config, "its norms are not LayerNorms with one epsilon")
    if _is(model.norm) and _is(model.fc_norm):
        raise _refusal(config, "it has two final norms")
    mlp = model.blocks[0].mlp
    if _activation(mlp) is None:
        raise _refusal(config, f"its activation is {type(mlp.act).__name__}")


def _problem(model: Any) -> str | None:
    """What of a Vision Transformer the forward does not compute; None where it computes all of it."""
    if model.pos_embed is None:
        return "it has no learned position embedding"
    for block in model.blocks:
        if type(block) is not timm_vit.Block:
            return f"its blocks are {type(block).__name__}"
        if not _is_plain(block, model.embed_dim):
            return "its attention or MLP is not the plain one"
    return None


def _is_plain(block: Any, width: int) -> bool:
    """Whether attention and MLP are what the forward computes."""
    attention, mlp = block.attn, block.mlp
    return bool(
        type(attention) is timm_layers.Attention
        and type(mlp) in (timm_layers.Mlp, timm_layers.GluMlp)
        and type(attention.q_norm) is type(attention.norm) is type(mlp.norm) is nn.Identity
        and attention.gate is None
        and attention.attn_dim == width
        and type(mlp.fc1) is nn.Linear
    )


def _is_plain_pool(pool: Any, width: int) -> bool:
    """Whether attention pooling is one projected query over all tokens, and a plain MLP."""
    return bool(
        type(pool) is timm_layers.AttentionPoolLatent
        and pool.latent_len == 1
        and pool.pool == "token"
        and pool.pos_embed is None
        and type(pool.q) is type(pool.kv) is type(pool.proj) is nn.Linear
        and type(pool.q_norm) is type(pool.k_norm) is nn.Identity
        and pool.latent.shape[-1] == pool.kv.in_features == pool.proj.out_features == width
        and type(pool.mlp) is timm_layers.Mlp
        and type(pool.mlp.norm) is nn.Identity
        and type(pool.mlp.fc1) is nn.Linear
        and activation_of(pool.mlp.act) is not None
    )
