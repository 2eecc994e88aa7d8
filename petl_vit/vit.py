"""The frozen Vision Transformer: one forward with named sites over timm's parameters.

Knows the architecture and the parameters of a plain pre-norm ViT as timm names them. Does not know
any PETL method: an executor (`petl_vit.executors`) carries the edits out at the sites, which are
named after timm's modules: `patch_embed.proj`, `norm_pre`, `blocks.L.norm1`, `blocks.L.attn.qkv`,
`blocks.L.attn.proj`, `blocks.L.norm2`, `blocks.L.mlp.fc1`, `blocks.L.mlp.fc2`, `norm`, `fc_norm`, and
the two sublayers `blocks.L.attn` and `blocks.L.mlp` (their output after LayerScale, before the
residual add). SigLIP's attention pooling (`attn_pool`) has no sites: no method of the study edits it, and
full fine-tuning replaces its parameters like all others. Source: timm.models.vision_transformer
(Wightman), arXiv 2010.11929; attention pooling: arXiv 2303.15343.

Shapes: B rows, N tokens, D width, H heads, P patch size, S image size.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import timm
import timm.layers as timm_layers
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from timm.models import vision_transformer as timm_vit
from torch import Tensor, nn

from petl_vit.errors import Corrupt, InvalidInput, Unsupported

Params = Mapping[str, Tensor]
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


class BackboneConfig(BaseModel):
    """What has to be known, besides the tensors, to run a backbone. Part of its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(description="timm's model name, e.g. vit_base_patch16_224")
    options: dict[str, bool | int | float | str | None] = Field(
        default_factory=dict, description="further keyword arguments of timm.create_model"
    )
    image_size: int = Field(ge=14, le=1024, description="native image size, pixels")
    pos_embed_antialias: bool = Field(
        default=True, description="antialias when the position embedding is resampled (bicubic)"
    )
    mean: tuple[float, float, float] = Field(description="default normalisation, of pixels in [0, 1]")
    std: tuple[float, float, float]


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


PATCH_CONVOLUTION = ("patch_embed.proj.weight", "patch_embed.proj.bias")
_EMBEDDINGS = ("cls_token", "reg_token", "pos_embed")


class Executor(Protocol):
    """Carries the frozen operations and the edits at their sites out for a batch of rows."""

    def over(self, names: Sequence[str], compute: Callable[[Tensor, Params], Tensor], x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]: what `compute` makes of the rows with the parameters that they run with.

        Args:
            names: Those that it reads.
        """

    def linear(self, site: str, x: Tensor) -> Tensor:
        """[B, N, in] -> [B, N, out]: the frozen linear and its edits."""

    def norm(self, site: str, x: Tensor) -> Tensor:
        """[B, N, D] or [B, D] -> same: the frozen LayerNorm and its edits."""

    def embed(self, patches: Tensor) -> Tensor:
        """[B, N, D] -> same: the edits of the patch embedding."""

    def extend(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, n + N, D]: the edits' tokens in front."""

    def strip(self, x: Tensor) -> Tensor:
        """[B, n + N, D] -> [B, N, D]: those tokens removed."""

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        """[B, N, 3D] -> [B, N, D]: attention, with the edits' extra keys and values."""

    def activate(self, h: Tensor) -> Tensor:
        """[B, N, M] -> same: the MLP's activation."""

    def feature(self, feature: Tensor) -> Tensor:
        """[B, D] -> same: the pooled feature and what edits join to it."""

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        """The residual stream after a sublayer: stream + out + the parallel branches."""


class FrozenViT:
    """A backbone at one image size: its parameters and the one forward over them.

    Args:
        config: The backbone's config; its `image_size` is the native one of the tensors.
        tensors: Every parameter by timm's name (no head).
        image_size: The size to run at, pixels; None means native. The position embedding is
            resampled as timm does it (bicubic, antialiased if the config says so).

    Raises:
        Unsupported: The architecture is not one this forward computes.
        Corrupt: Names or shapes of the tensors are not the architecture's.
        InvalidInput: The image size is no multiple of the patch size.
    """

    def __init__(
        self, config: BackboneConfig, tensors: Mapping[str, Tensor], *, image_size: int | None = None
    ) -> None:
        native = describe(config)
        check_tensors(tensors, native.shapes, what=f"backbone {config.architecture}")
        self.config = config
        self.arch = native.at(image_size or native.image_size)
        self.params: dict[str, Tensor] = dict(tensors)
        if self.arch.grid != native.grid:
            self.params["pos_embed"] = timm_layers.resample_abs_pos_embed(
                tensors["pos_embed"],
                new_size=[self.arch.grid, self.arch.grid],
                old_size=[native.grid, native.grid],
                num_prefix_tokens=native.prefix_tokens if native.position_of_prefix else 0,
                interpolation="bicubic",
                antialias=config.pos_embed_antialias,
            )
        self._blocks = tuple(f"blocks.{i}" for i in range(self.arch.depth))

    @property
    def device(self) -> torch.device:
        return self.params["pos_embed"].device

    @property
    def dtype(self) -> torch.dtype:
        return self.params["pos_embed"].dtype

    def to(self, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> "FrozenViT":
        """The same backbone elsewhere; tensors already there are shared, not copied."""
        other = object.__new__(FrozenViT)
        other.__dict__.update(self.__dict__)
        other.params = {name: p.to(device=device, dtype=dtype) for name, p in self.params.items()}
        return other

    def forward(self, images: Tensor, run: Executor) -> Tensor:
        """Pooled features of images, one row each: [B, 3, S, S] -> [B, D]."""
        return self.features(run.over(PATCH_CONVOLUTION, self.patches, images), run)

    def patches(self, images: Tensor, params: Params) -> Tensor:
        """[U, 3, S, S] -> [U, N, D]: the patch convolution alone, which any number of rows may share."""
        weight, bias = params["patch_embed.proj.weight"], params.get("patch_embed.proj.bias")
        return F.conv2d(images, weight, bias, stride=self.arch.patch_size).flatten(2).transpose(1, 2)

    def features(self, patches: Tensor, run: Executor, forks: Mapping[int, Tensor] | None = None) -> Tensor:
        """Pooled features of a batch of rows.

        Args:
            patches: [U, N, D], of the distinct images.
            run: The executor that holds the rows' edits.
            forks: Where rows part that were the same until then: before block l (0: before the edits of
                the patch embedding; the depth: before the final norm) the stream's rows become those of
                the index `forks[l]`, int64. None where row i is image i.

        Returns:
            [B, D].
        """
        forks = forks or {}
        x = patches[forks[0]] if 0 in forks else patches
        x = run.over(_EMBEDDINGS, self._embed, run.embed(x))
        if self.arch.pre_norm:
            x = run.norm("norm_pre", x)
        x = run.extend(x)
        for number, block in enumerate(self._blocks):
            if number and number in forks:
                x = x[forks[number]]
            x = self._block(number, block, x, run)
        if self.arch.depth in forks:
            x = x[forks[self.arch.depth]]
        return run.feature(self._feature(x if self.arch.pool == "token" else run.strip(x), run))

    def _feature(self, x: Tensor, run: Executor) -> Tensor:
        """The final norm and the pooling: [B, N, D], or the class token's [B, 1, D], -> [B, D]."""
        if self.arch.final_norm == "fc_norm":
            return run.norm("fc_norm", self._pool(x, run))
        if self.arch.pool == "token":  # the norm acts on each token alone
            return run.norm("norm", x[:, 0])
        return self._pool(run.norm("norm", x), run)

    def _embed(self, x: Tensor, params: Params) -> Tensor:
        """Class and register tokens in front of the patches, and positions: [B, N, D]."""
        names = [*(["cls_token"] if self.arch.class_token else [])]
        names += ["reg_token"] if self.arch.register_tokens else []
        prefix = [params[name].expand(x.shape[0], -1, -1) for name in names]
        if self.arch.position_of_prefix:
            return torch.cat([*prefix, x], dim=1) + params["pos_embed"]
        return torch.cat([*prefix, x + params["pos_embed"]], dim=1)

    def _block(self, number: int, block: str, x: Tensor, run: Executor) -> Tensor:
        """[B, N, D] -> [B, N, D]; of the last block only the class token where nothing else is pooled."""
        z = run.norm(f"{block}.norm1", x)
        out = run.attend(number, run.linear(f"{block}.attn.qkv", z))
        if number + 1 == self.arch.depth and self.arch.pool == "token":
            x, z, out = (run.strip(t)[:, :1].contiguous() for t in (x, z, out))
        y = run.linear(f"{block}.attn.proj", out)
        x = run.add(f"{block}.attn", x, z, self._scaled(f"{block}.ls1.gamma", y, run))
        z = run.norm(f"{block}.norm2", x)
        h = run.activate(run.linear(f"{block}.mlp.fc1", z))
        y = run.linear(f"{block}.mlp.fc2", h)
        return run.add(f"{block}.mlp", x, z, self._scaled(f"{block}.ls2.gamma", y, run))

    def _scaled(self, gamma: str, y: Tensor, run: Executor) -> Tensor:
        return run.over((gamma,), lambda z, params: z * params[gamma], y) if self.arch.layer_scale else y

    def _pool(self, x: Tensor, run: Executor) -> Tensor:
        """[B, N, D] -> [B, D]."""
        if self.arch.pool == "token":
            return x[:, 0]
        patches = x[:, self.arch.prefix_tokens :]
        if self.arch.pool == "avg":
            return patches.mean(dim=1)
        names = tuple(name for name in self.params if name.startswith("attn_pool."))
        return run.over(names, self._attention_pool, patches)

    def _attention_pool(self, x: Tensor, params: Params) -> Tensor:
        """One learned query over all tokens, then an MLP with a residual: [B, N, D] -> [B, D]."""

        def linear(name: str, y: Tensor) -> Tensor:
            return F.linear(y, params[f"attn_pool.{name}.weight"], params.get(f"attn_pool.{name}.bias"))

        heads = self.arch.heads
        q = linear("q", params["attn_pool.latent"]).unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = linear("kv", x).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        pooled = F.scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), k, v)
        y = linear("proj", pooled.flatten(1))
        weight, bias = params["attn_pool.norm.weight"], params["attn_pool.norm.bias"]
        z = F.layer_norm(y, weight.shape, weight, bias, self.arch.eps)
        return y + linear("mlp.fc2", self.arch.activation(linear("mlp.fc1", z)))


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
